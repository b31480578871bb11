"""Watching an agent: what it does in the simulator, beside what it thinks; as films and live."""
