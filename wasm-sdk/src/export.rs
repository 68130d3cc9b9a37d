//! [`export_policy!`](crate::export_policy): what makes a crate a policy.
//!
//! Guarantees: off WebAssembly it expands to a check of the traits alone, so that native tests need
//! nothing of it. Does nothing at run time.

/// Makes a component of a type: names the hooks it has.
///
/// ```
/// # use farshore_wasm_sdk::*;
/// # struct Scratch;
/// # impl Policy for Scratch {
/// #     fn configure(_: &mut Settings, _: Timestamp) -> Result<(Self, Manifest), String> {
/// #         Ok((Self, Manifest::new("scratch", "1")))
/// #     }
/// # }
/// # impl Exclude for Scratch {
/// #     fn exclude(&self, _: &Entry) -> Verdict { Verdict::REPLICATE }
/// # }
/// export_policy!(Scratch: exclude); // or `resolve`, or `exclude, resolve`
/// ```
#[macro_export]
macro_rules! export_policy {
    ($policy:ty: exclude) => {
        $crate::__export!($policy, EXCLUDE_POLICY, "exclude-policy", exclude);
    };
    ($policy:ty: resolve) => {
        $crate::__export!($policy, CONFLICT_POLICY, "conflict-policy", resolve);
    };
    ($policy:ty: exclude, resolve) => {
        $crate::__export!($policy, POLICY, "policy", exclude, resolve);
    };
    ($policy:ty: resolve, exclude) => {
        $crate::export_policy!($policy: exclude, resolve);
    };
    ($($other:tt)*) => {
        compile_error!("write export_policy!(Type: exclude), (Type: resolve) or (Type: exclude, resolve)");
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($policy:ty, $world:ident, $name:literal, $($hook:ident),+) => {
        const _: () = { $($crate::__assert_hook!($policy, $hook);)+ };

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::abi;

            static POLICY: abi::Slot<$policy> = abi::Slot::new();

            /// The types of the world, for the tool that makes a component of this module.
            #[unsafe(link_section = concat!("component-type:farshore:policy@1.0.0:", $name))]
            #[used]
            static WORLD: [u8; $crate::worlds::$world.len()] = *$crate::worlds::$world;

            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn realloc(
                old: *mut u8,
                old_len: usize,
                align: usize,
                new_len: usize,
            ) -> *mut u8 {
                unsafe { abi::realloc(old, old_len, align, new_len) }
            }

            #[unsafe(export_name = "farshore:policy/lifecycle@1.0.0#configure")]
            unsafe extern "C" fn configure(
                settings: *const abi::RawSetting,
                len: usize,
                seconds: i64,
                nanoseconds: u32,
            ) -> *const abi::RawResult<abi::RawManifest, abi::List<u8>> {
                unsafe { abi::configure(&POLICY, settings, len, seconds, nanoseconds) }
            }

            #[unsafe(export_name = "cabi_post_farshore:policy/lifecycle@1.0.0#configure")]
            extern "C" fn post_configure(_: *const u8) {
                abi::post_return();
            }

            $($crate::__export_hook!($hook);)+
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __assert_hook {
    ($policy:ty, exclude) => {
        const fn is_exclude<T: $crate::Exclude>() {}
        is_exclude::<$policy>();
    };
    ($policy:ty, resolve) => {
        const fn is_resolve<T: $crate::Resolve>() {}
        is_resolve::<$policy>();
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (exclude) => {
        #[unsafe(export_name = "farshore:policy/exclusion@1.0.0#exclude")]
        unsafe extern "C" fn exclude(
            entries: *const abi::RawEntry,
            len: usize,
        ) -> *const abi::List<abi::RawVerdict> {
            unsafe { abi::exclude(&POLICY, entries, len) }
        }

        #[unsafe(export_name = "cabi_post_farshore:policy/exclusion@1.0.0#exclude")]
        extern "C" fn post_exclude(_: *const u8) {
            abi::post_return();
        }
    };
    (resolve) => {
        #[unsafe(export_name = "farshore:policy/resolution@1.0.0#resolve")]
        unsafe extern "C" fn resolve(conflict: *const abi::RawConflict) -> *const abi::RawDecision {
            unsafe { abi::resolve(&POLICY, conflict) }
        }

        #[unsafe(export_name = "cabi_post_farshore:policy/resolution@1.0.0#resolve")]
        extern "C" fn post_resolve(_: *const u8) {
            abi::post_return();
        }
    };
}
