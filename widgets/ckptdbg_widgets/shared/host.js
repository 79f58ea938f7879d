// Stands in for the notebook where there is none: holds a widget's traits and tells those who listen.

export class PlainModel {
  constructor(traits) {
    this.traits = { ...traits };
    this.listeners = {};
    this.sent = [];
  }

  get(name) {
    return this.traits[name];
  }

  set(name, value) {
    const before = this.traits[name];
    this.traits[name] = value;
    if (before !== value) for (const listener of [...(this.listeners[`change:${name}`] ?? [])]) listener();
  }

  on(event, listener) {
    (this.listeners[event] ??= []).push(listener);
  }

  off(event, listener) {
    this.listeners[event] = (this.listeners[event] ?? []).filter((other) => other !== listener);
  }

  save_changes() {}

  send(message) {
    this.sent.push(message);
  }
}
