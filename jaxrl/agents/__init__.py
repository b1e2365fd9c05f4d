"""Agents: three pure functions each, init, act and update."""
