"""Virtual time: worker speeds, communication, the compiled event loop, what-if."""
