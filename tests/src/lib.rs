//! What the offline and the live tests share. Holds no test itself.
