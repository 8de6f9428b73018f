"""One file a command: ``main`` imports the file when its name is typed, and runs the command of that name in it."""
