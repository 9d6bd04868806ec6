//! Files through std.
