//! Tests over recorded captures: no root, no eBPF.
