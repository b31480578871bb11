"""Watching an agent as films or live: its actions in the simulator, and the search behind them."""
