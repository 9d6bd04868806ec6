//! What a disk that stands before another hands on to it.

/// The calls of a [`Disk`](crate::disk::Disk) but `submit` and `poll`, handed on to the one in this field:
/// for disks that do something of their own with operations under way.
#[macro_export]
macro_rules! forward_disk {
    ($inner:ident) => {
        fn info(&self) -> $crate::disk::DiskInfo {
            self.$inner.info()
        }

        fn attach(&mut self, dir: &std::path::Path) {
            self.$inner.attach(dir);
        }

        fn path(&self) -> &std::path::Path {
            self.$inner.path()
        }

        fn list(&mut self) -> std::io::Result<Option<Vec<$crate::disk::FileInfo>>> {
            self.$inner.list()
        }

        fn make(&mut self) -> std::io::Result<()> {
            self.$inner.make()
        }

        fn lock(&mut self) -> Result<(), $crate::disk::LockError> {
            self.$inner.lock()
        }

        fn entropy(&mut self) -> std::io::Result<[u8; 32]> {
            self.$inner.entropy()
        }

        fn room(&mut self) -> Option<$crate::disk::Room> {
            self.$inner.room()
        }

        fn run(&mut self, op: $crate::disk::Op) -> std::io::Result<$crate::disk::Output> {
            self.$inner.run(op)
        }

        fn reader(
            &self,
            file: $crate::disk::FileId,
        ) -> Option<std::sync::Arc<dyn $crate::disk::ReadAt>> {
            self.$inner.reader(file)
        }
    };
}
