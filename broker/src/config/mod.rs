//! One typed, documented configuration: file, environment, flags.
