//! How values are printed: JSON, numbers as Python prints them, paths.

pub(crate) mod json;
pub(crate) mod python;
pub(crate) mod shown;
