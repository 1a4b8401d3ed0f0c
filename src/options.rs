//! What the options of every type have in common: setters, and the conversion of an open file.

/// Defines setters of `$options`, each with its documentation; one without a body has no effect.
macro_rules! setters {
    (impl $options:ident; $($(#[$doc:meta])* fn $name:ident($argument:ident: $type:ty) { $($($field:ident).+ = $value:expr;)? })+) => {
        impl $options {
            $(
                $(#[$doc])*
                #[allow(unused_mut)]
                pub fn $name(mut self, $argument: $type) -> Self {
                    $(self.$($field).+ = $value;)?
                    self
                }
            )+
        }
    };
}

/// Implements `TryFrom<File>` and `TryFrom<OwnedFd>` by an expression that opens `$file`. The caller imports `Error` and
/// `Result`.
macro_rules! impl_try_from_file {
    ($(#[$doc:meta])* $type:ident, $file:ident => $open:expr) => {
        $(#[$doc])*
        impl TryFrom<std::fs::File> for $type {
            type Error = Error;

            fn try_from($file: std::fs::File) -> Result<Self> {
                $open
            }
        }

        /// As from a [`File`](std::fs::File).
        #[cfg(unix)]
        impl TryFrom<std::os::fd::OwnedFd> for $type {
            type Error = Error;

            fn try_from(fd: std::os::fd::OwnedFd) -> Result<Self> {
                $type::try_from(std::fs::File::from(fd))
            }
        }
    };
}

pub(crate) use impl_try_from_file;
pub(crate) use setters;
