"""Real time: one server and its workers in processes of their own."""
