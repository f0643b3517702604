//! Tests on the running kernel: root.
