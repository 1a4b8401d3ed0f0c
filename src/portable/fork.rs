//! Forked children that work on borrowed memory: not on this platform. [`scope`] fails with
//! [`Error::Unsupported`](crate::Error::Unsupported), and calls nothing.

use crate::error::{Error, Result};
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::process::ExitStatus;

/// Fails; `f` is not called.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn scope<'env, F, T>(_f: F) -> Result<T>
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    Err(Error::unsupported(None, "fork"))
}

/// Where children are spawned. There is none on this platform.
pub struct Scope<'scope, 'env: 'scope> {
    never: Infallible,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// A child. There is none on this platform.
pub struct Child<'scope> {
    never: Infallible,
    scope: PhantomData<&'scope ()>,
}

/// Parts of shared memory that are passed to a child: `&mut [u8]`, and arrays, vectors and tuples of them.
pub trait Parts: sealed::Parts {}

impl<P: sealed::Parts> Parts for P {}

mod sealed {
    pub trait Parts {}

    impl Parts for &mut [u8] {}
    impl<P: Parts, const N: usize> Parts for [P; N] {}
    impl<P: Parts> Parts for Vec<P> {}
    impl<A: Parts> Parts for (A,) {}
    impl<A: Parts, B: Parts> Parts for (A, B) {}
    impl<A: Parts, B: Parts, C: Parts> Parts for (A, B, C) {}
    impl<A: Parts, B: Parts, C: Parts, D: Parts> Parts for (A, B, C, D) {}
}

impl<'scope> Scope<'scope, '_> {
    /// Forks a child.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn spawn<F: FnOnce() + 'scope>(&'scope self, _f: F) -> Result<Child<'scope>> {
        match self.never {}
    }

    /// Forks a child that has parts of shared memory.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn spawn_with<P, F>(&'scope self, _parts: P, _f: F) -> Result<Child<'scope>>
    where
        P: Parts + 'scope,
        F: FnOnce(P) + 'scope,
    {
        match self.never {}
    }

    /// Forks a child that has all shared memory.
    ///
    /// # Errors
    /// There is no value to call it on.
    ///
    /// # Safety
    /// There is no value to call it on.
    #[allow(unsafe_code)]
    pub unsafe fn spawn_unchecked<F: FnOnce() + 'scope>(
        &'scope self,
        _f: F,
    ) -> Result<Child<'scope>> {
        match self.never {}
    }
}

impl Child<'_> {
    /// Its process id.
    pub fn id(&self) -> u32 {
        match self.never {}
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn wait(self) -> Result<ExitStatus> {
        match self.never {}
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

impl fmt::Debug for Child<'_> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}
