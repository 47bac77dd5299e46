//! Cells that the threads of an interpreter share: guarded by its lock, or by their own where a free-threaded
//! build runs without one.

#[cfg(not(Py_GIL_DISABLED))]
pub use gil::{Guarded, Shared};
#[cfg(Py_GIL_DISABLED)]
pub use locks::{Guarded, Shared};

#[cfg(not(Py_GIL_DISABLED))]
mod gil {
    use std::cell::{Ref, RefCell, RefMut};

    /// A small value.
    pub type Shared<T> = std::cell::Cell<T>;

    /// What is looked at or changed in place.
    #[derive(Default)]
    pub struct Guarded<T>(RefCell<T>);

    impl<T> Guarded<T> {
        pub fn new(value: T) -> Self {
            Guarded(RefCell::new(value))
        }

        pub fn read(&self) -> Ref<'_, T> {
            self.0.borrow()
        }

        pub fn write(&self) -> RefMut<'_, T> {
            self.0.borrow_mut()
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod locks {
    use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

    /// A small value.
    #[derive(Default)]
    pub struct Shared<T>(Mutex<T>);

    impl<T: Copy> Shared<T> {
        pub fn new(value: T) -> Self {
            Shared(Mutex::new(value))
        }

        pub fn get(&self) -> T {
            *self.0.lock().unwrap()
        }

        pub fn set(&self, value: T) {
            self.replace(value);
        }

        pub fn replace(&self, value: T) -> T {
            std::mem::replace(&mut *self.0.lock().unwrap(), value)
        }
    }

    /// What is looked at or changed in place. Who waits for it is attached: whoever has it must not wait for
    /// Python, and may detach with it only as a reader.
    #[derive(Default)]
    pub struct Guarded<T>(RwLock<T>);

    impl<T> Guarded<T> {
        pub fn new(value: T) -> Self {
            Guarded(RwLock::new(value))
        }

        pub fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap()
        }

        pub fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap()
        }
    }
}
