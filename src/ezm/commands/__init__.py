"""The commands of ``ezm``, one module each: options as a dataclass, and the function that wires them."""
