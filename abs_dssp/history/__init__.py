"""What happened: events, what was decided on each, and the trace made of them."""
