//! What the options of every type have in common: setters, and the conversion of an open file.

/// The setters of `$options`, each with its documentation.
macro_rules! setters {
    (impl $options:ident; $($(#[$doc:meta])* fn $name:ident($argument:ident: $type:ty) { $($field:ident).+ = $value:expr; })+) => {
        impl $options {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $argument: $type) -> Self {
                    self.$($field).+ = $value;
                    self
                }
            )+
        }
    };
}

/// `TryFrom<File>` and `TryFrom<OwnedFd>`, by a function that takes a `File`.
macro_rules! impl_try_from_file {
    ($(#[$doc:meta])* $type:ident, $open:expr) => {
        $(#[$doc])*
        impl TryFrom<std::fs::File> for $type {
            type Error = $crate::error::Error;

            fn try_from(file: std::fs::File) -> $crate::error::Result<Self> {
                $open(file)
            }
        }

        /// As from a [`File`](std::fs::File).
        #[cfg(unix)]
        impl TryFrom<std::os::fd::OwnedFd> for $type {
            type Error = $crate::error::Error;

            fn try_from(fd: std::os::fd::OwnedFd) -> $crate::error::Result<Self> {
                $type::try_from(std::fs::File::from(fd))
            }
        }
    };
}

pub(crate) use impl_try_from_file;
pub(crate) use setters;
