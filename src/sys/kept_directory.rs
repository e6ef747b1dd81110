//! A directory that stays open while a batch creates or opens several files in it.
//!
//! New series mostly arrive in the order of their directories; opening, `fstat` and closing the
//! parent is a tenth of the cost of a new file. It is kept for one batch only: the next one
//! resolves the path again, so renames take effect. A removed directory shows when a file is
//! created in it.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// At most one open directory, and its path below the data directory.
#[derive(Debug, Default)]
pub struct KeptDirectory {
    path: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl KeptDirectory {
    /// Closes it.
    pub fn forget(&mut self) {
        self.descriptor = None;
    }

    /// Whether it is the directory of this file.
    pub fn holds(&self, path: &CStr) -> bool {
        self.split(path).is_some()
    }

    /// The directory and this file's name in it, if it is the file's.
    pub(super) fn split<'a>(&'a self, path: &'a CStr) -> Option<(&'a OwnedFd, &'a CStr)> {
        let descriptor = self.descriptor.as_ref()?;
        let name = path.to_bytes_with_nul().strip_prefix(self.path.as_slice())?;
        let name = name.strip_prefix(b"/").filter(|name| !name.contains(&b'/'))?;
        Some((descriptor, CStr::from_bytes_with_nul(name).ok()?))
    }

    /// Keeps this one instead.
    pub(super) fn keep(&mut self, path: &[u8], descriptor: OwnedFd) -> &OwnedFd {
        self.path.clear();
        self.path.extend_from_slice(path);
        self.descriptor.insert(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::sys::at::c_path;
    use crate::sys::files::Tree;
    use crate::sys::new_file::Layout;

    #[test]
    fn a_directory_is_kept_until_it_is_forgotten_or_removed() {
        let name = format!("carbyne-kept-directory-{}", std::process::id());
        let top = std::env::temp_dir().join(name);
        fs::create_dir_all(&top).unwrap();
        let tree = Tree::open(&top, false).unwrap();
        let create = |kept: &mut KeptDirectory, path: &str| {
            let write = |file: &fs::File| file.write_all_at(path.as_bytes(), 0);
            let path = c_path(path.as_bytes());
            drop(tree.create_file(kept, &path, 100, Layout::Sparse, write).unwrap());
        };
        let holds =
            |path: &str, want: &str| fs::read(top.join(path)).unwrap().starts_with(want.as_bytes());
        let mut kept = KeptDirectory::default();
        create(&mut kept, "a/b/1");
        let descriptor = |kept: &KeptDirectory| kept.split(c"a/b/1").unwrap().0.as_raw_fd();
        let first = descriptor(&kept);
        // It is used again: the path is looked at no more.
        fs::rename(top.join("a/b"), top.join("a/moved")).unwrap();
        create(&mut kept, "a/b/2");
        assert_eq!(descriptor(&kept), first);
        assert!(holds("a/moved/2", "a/b/2") && !top.join("a/b").exists());
        // Until it is forgotten.
        kept.forget();
        create(&mut kept, "a/b/3");
        assert!(holds("a/b/3", "a/b/3"));
        // What begins or ends like it is another.
        for path in ["a/4", "a/b/c/4", "b/4", "4", "a/b/4"] {
            create(&mut kept, path);
            assert!(holds(path, path), "{path}");
        }
        // One that is gone is made again.
        fs::remove_dir_all(top.join("a")).unwrap();
        create(&mut kept, "a/b/5");
        assert!(holds("a/b/5", "a/b/5"));
        // And one that stands in its place is taken.
        fs::remove_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(top.join("a/b")).unwrap();
        create(&mut kept, "a/b/6");
        create(&mut kept, "a/b/7");
        assert!(holds("a/b/6", "a/b/6") && holds("a/b/7", "a/b/7"));
        fs::remove_dir_all(top).unwrap();
    }

    /// A file is opened from the kept directory where that leads to the same, and else by its path.
    #[test]
    fn files_are_opened_beside_each_other() {
        let name = format!("carbyne-open-beside-{}", std::process::id());
        let top = std::env::temp_dir().join(name);
        fs::create_dir_all(top.join("a/b")).unwrap();
        for path in ["a/b/1", "a/1", "1"] {
            fs::write(top.join(path), path).unwrap();
        }
        std::os::unix::fs::symlink("../1", top.join("a/b/inside")).unwrap();
        let out = top.with_extension("out");
        fs::write(&out, "out").unwrap();
        std::os::unix::fs::symlink(&out, top.join("a/b/outside")).unwrap();
        let tree = Tree::open(&top, false).unwrap();
        let mut kept = KeptDirectory::default();
        let open = |kept: &KeptDirectory, path: &str| {
            let file = tree.open_beside(kept, &c_path(path.as_bytes())).ok()?;
            Some(std::io::read_to_string(file).unwrap())
        };
        tree.keep_parent(&mut kept, c"missing/1");
        assert!(kept.descriptor.is_none());
        for keeps in [false, true] {
            if keeps {
                tree.keep_parent(&mut kept, c"a/b/1");
            }
            for path in ["a/b/1", "a/1", "1"] {
                assert_eq!(open(&kept, path).as_deref(), Some(path));
            }
            assert_eq!(open(&kept, "a/b/inside").as_deref(), Some("a/1"));
            for path in ["a/b/outside", "a/b/missing"] {
                assert_eq!(open(&kept, path), None, "{path}");
            }
        }
        for (path, want) in
            [(c"a/b/2", true), (c"a/b/c/2", false), (c"a/2", false), (c"a/bb/2", false)]
        {
            assert_eq!(kept.holds(path), want, "{path:?}");
        }
        // It goes no path: the directory is the one that was kept, wherever it is now.
        fs::rename(top.join("a"), top.join("moved")).unwrap();
        assert_eq!(open(&kept, "a/b/1").as_deref(), Some("a/b/1"));
        kept.forget();
        assert!(!kept.holds(c"a/b/2"));
        assert_eq!(open(&kept, "a/b/1"), None);
        fs::remove_dir_all(top).unwrap();
        fs::remove_file(out).unwrap();
    }
}
