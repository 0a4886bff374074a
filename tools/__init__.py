"""Tools around the repository, which no part of the system imports. They run before anything is
installed, on the standard library alone."""
