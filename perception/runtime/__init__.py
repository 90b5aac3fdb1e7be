"""The service on Ray: actors, the engine that calls them, and Ray itself. The only importer of ray."""
