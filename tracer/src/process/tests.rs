//! Tests over this process itself, over files that a test makes, and over texts that no kernel writes.
