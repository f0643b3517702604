//! The capture file: format, writer, reader.
