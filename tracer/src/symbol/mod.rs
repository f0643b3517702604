//! Names for addresses, by blazesym: files, kernel, maps that JITs write.
