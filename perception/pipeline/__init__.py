"""One drive through the service: session, engine in this process, publisher. Usable without Ray."""
