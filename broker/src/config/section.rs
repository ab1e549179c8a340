//! Sections of the configuration: one declaration gives the typed fields, their defaults, their
//! bounds and the words of the reference.
//!
//! The doc comment of a field is the documentation that `polycast default-config` and
//! `docs/configuration.md` print, so it is written for operators and uses no links.

use super::setting::{Bounds, Setting};

/// What is known of one key, beside its value.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The section and name with a dot between, as in error messages: `limits.packet_size`.
    pub path: &'static str,
    /// Lines for the operator.
    pub doc: &'static str,
    /// What values it takes.
    pub bounds: Bounds,
    /// When a change takes effect.
    pub apply: Apply,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// At SIGHUP, for new connections.
    Live,
    /// At the next start.
    Restart,
}

impl Key {
    /// The name inside its section.
    pub fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// The section; empty for keys at the top of the file.
    pub fn section(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        let path = self.path.to_ascii_uppercase().replace('.', "__");
        format!("{VARIABLE_PREFIX}{path}")
    }
}

/// How the names of all environment variables begin.
pub(super) const VARIABLE_PREFIX: &str = "POLYCAST_";

/// Walks over all keys of a configuration in the order of the reference.
pub(super) trait Visitor {
    /// A section begins.
    fn section(&mut self, name: &'static str, about: &'static str) {
        let _ = (name, about);
    }

    /// A key and its value, which may be changed.
    fn setting(&mut self, key: &Key, value: &mut dyn Setting);
}

/// A part of the configuration with a name.
pub(super) trait Section {
    /// Offers the section and all its keys to the visitor.
    fn visit(&mut self, visitor: &mut dyn Visitor);

    /// Takes the values that only a restart can change from the running configuration.
    fn keep_restart(&mut self, running: &Self);
}

/// Declares a section: `/// doc` `key: Type = default, bounds, Live|Restart;`.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $struct:ident in $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $default:expr, $bounds:expr, $apply:ident;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $struct {
            $(
                $(#[doc = $doc])*
                pub $key: $type,
            )*
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $crate::config::section::Section for $struct {
            fn visit(&mut self, visitor: &mut dyn $crate::config::section::Visitor) {
                visitor.section($section, concat!($($about, "\n"),*));
                $(
                    visitor.setting(
                        &$crate::config::section::Key {
                            path: concat!($section, ".", stringify!($key)),
                            doc: concat!($($doc, "\n"),*),
                            bounds: $bounds,
                            apply: $crate::config::section::Apply::$apply,
                        },
                        &mut self.$key,
                    );
                )*
            }

            fn keep_restart(&mut self, running: &Self) {
                use $crate::config::section::Apply::{self, Live, Restart};
                let _: [Apply; 2] = [Live, Restart];
                $(
                    if $apply == Restart {
                        self.$key.clone_from(&running.$key);
                    }
                )*
            }
        }
    };
}

pub(super) use section;
