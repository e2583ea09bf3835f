"""The HTTP and WebSocket server: listening sockets, deadlines and bounds against hostile input, the direct writer.

The only package that knows uvicorn and httptools. ``listener.Listener`` is one port, ``loop.run_loop`` the event loop.
"""
