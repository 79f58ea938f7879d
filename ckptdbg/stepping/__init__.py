"""The debugger's verbs over one recorded run of both models: where am I, what is here, what if this were right."""
