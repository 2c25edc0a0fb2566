//! Where the store and the cache lie, from what the environment says.

use std::path::PathBuf;

/// What the environment says of folders.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// `VMSS_STATE`: the store's file.
    pub state: Option<PathBuf>,
    /// `VMSS_CACHE`: the cache's folder.
    pub cache: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// Whether the user is root.
    pub root: bool,
}

impl Folders {
    /// The store's file.
    pub fn store(&self) -> PathBuf {
        if let Some(path) = &self.state {
            return path.clone();
        }
        if self.root {
            return PathBuf::from("/var/lib/vmss/state.db");
        }
        let base = self.xdg_state.clone().filter(|p| p.is_absolute());
        base.unwrap_or_else(|| self.home().join(".local/state"))
            .join("vmss/state.db")
    }

    /// The cache's folder.
    pub fn cache(&self) -> PathBuf {
        if let Some(path) = &self.cache {
            return path.clone();
        }
        if self.root {
            return PathBuf::from("/var/cache/vmss");
        }
        let base = self.xdg_cache.clone().filter(|p| p.is_absolute());
        base.unwrap_or_else(|| self.home().join(".cache")).join("vmss")
    }

    fn home(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| PathBuf::from("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_lies_where_people_look_for_it() {
        let home = Folders {
            home: Some("/home/ann".into()),
            ..Folders::default()
        };
        assert_eq!(
            home.store(),
            PathBuf::from("/home/ann/.local/state/vmss/state.db")
        );
        let xdg = Folders {
            xdg_state: Some("/s".into()),
            ..home.clone()
        };
        assert_eq!(xdg.store(), PathBuf::from("/s/vmss/state.db"));
        let relative = Folders {
            xdg_state: Some("s".into()),
            ..home.clone()
        };
        assert_eq!(
            relative.store(),
            home.store(),
            "XDG says that relative paths are to be ignored"
        );
        assert_eq!(
            Folders {
                root: true,
                ..home.clone()
            }
            .store(),
            PathBuf::from("/var/lib/vmss/state.db")
        );
        assert_eq!(
            Folders {
                state: Some("/x.db".into()),
                root: true,
                ..home
            }
            .store(),
            PathBuf::from("/x.db")
        );
    }

    #[test]
    fn so_does_the_cache() {
        let home = Folders {
            home: Some("/home/ann".into()),
            ..Folders::default()
        };
        assert_eq!(home.cache(), PathBuf::from("/home/ann/.cache/vmss"));
        let xdg = Folders {
            xdg_cache: Some("/c".into()),
            ..home.clone()
        };
        assert_eq!(xdg.cache(), PathBuf::from("/c/vmss"));
        let root = Folders { root: true, ..xdg };
        assert_eq!(root.cache(), PathBuf::from("/var/cache/vmss"));
        let told = Folders {
            cache: Some("/x".into()),
            ..root
        };
        assert_eq!(told.cache(), PathBuf::from("/x"));
    }
}
