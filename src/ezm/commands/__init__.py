"""The commands of ``ezm``, one module each: a dataclass of options, and the function that runs the command."""
