"""Tables and figures: what people look at after a run."""
