//! Parts of shared memory that are passed to a child.

use crate::atfork;
use crate::error::Result;
use std::ops::Range;

/// Memory that [`Scope::spawn_with`](super::Scope::spawn_with) can pass to a child: a `&mut [u8]` of whole pages of an
/// [`Anonymous::shared`](crate::Anonymous::shared), or arrays, vectors and tuples of such parts.
///
/// The end of the value counts as the end of a page. An empty slice may be anywhere. The trait is sealed.
///
/// # Examples
/// ```
/// let mut memory = stillmap::Anonymous::shared(100_000)?;
/// let (first, second) = memory.split_at_mut(stillmap::page::size());
/// stillmap::fork::scope(|s| {
///     s.spawn_with((first, second), |(first, second)| {
///         first.fill(1);
///         second.fill(2);
///     })
///     .map(drop)
/// })??;
/// assert_eq!((memory[0], memory[99_999]), (1, 2));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub trait Parts: sealed::Parts {}

impl<P: sealed::Parts> Parts for P {}

mod sealed {
    use std::ops::Range;

    pub trait Parts {
        /// Appends the addresses of each part.
        fn addresses(&self, to: &mut Vec<Range<usize>>);
    }
}

impl sealed::Parts for &mut [u8] {
    fn addresses(&self, to: &mut Vec<Range<usize>>) {
        let start = self.as_ptr().addr();
        to.push(start..start + self.len());
    }
}

impl<P: sealed::Parts, const N: usize> sealed::Parts for [P; N] {
    fn addresses(&self, to: &mut Vec<Range<usize>>) {
        self.iter().for_each(|part| part.addresses(to));
    }
}

impl<P: sealed::Parts> sealed::Parts for Vec<P> {
    fn addresses(&self, to: &mut Vec<Range<usize>>) {
        self.iter().for_each(|part| part.addresses(to));
    }
}

macro_rules! tuples {
    ($($part:ident)+) => {
        impl<$($part: sealed::Parts),+> sealed::Parts for ($($part,)+) {
            #[allow(non_snake_case, reason = "one name for a type and its value")]
            fn addresses(&self, to: &mut Vec<Range<usize>>) {
                let ($($part,)+) = self;
                $($part.addresses(to);)+
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

/// The pages of the parts, if all of them may be passed to a child of this process.
pub(super) fn pages(parts: &impl Parts) -> Result<Vec<Range<usize>>> {
    let mut addresses = Vec::new();
    parts.addresses(&mut addresses);
    let parts = addresses.into_iter().filter(|part| !part.is_empty());
    parts.map(atfork::lendable_pages).collect()
}
