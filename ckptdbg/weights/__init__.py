"""What is done with weights alone: no model is built, no token is run."""
