//! CPython: finds the interpreter in a process, tells the programs where its frames are, names them, merges them into native stacks.
