"""The bundle: the folder that is published, which anyone can load and which proves what it is."""
