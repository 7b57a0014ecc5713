// How bindings are made of Unit's headers, or of the stand-in's. A file of
// its own because the build script of the stand-in, which implements what the
// module calls, includes it too: both sides see the same declarations.

use std::path::{Path, PathBuf};

/// The functions called. This list, with the types below, is the whole of the
/// module's surface on Unit.
const FUNCTIONS: &[&str] = &[
    "nxt_unit_default_init",
    "nxt_unit_init",
    "nxt_unit_ctx_alloc",
    "nxt_unit_process_port_msg",
    "nxt_unit_done",
    "nxt_unit_log",
    "nxt_unit_response_init",
    "nxt_unit_response_add_field",
    "nxt_unit_response_add_content",
    "nxt_unit_response_send",
    "nxt_unit_response_write_nb",
    "nxt_unit_request_read",
    "nxt_unit_request_done",
    "nxt_conf_type",
    "nxt_conf_get_string",
    "nxt_conf_get_number",
    "nxt_conf_get_boolean",
    "nxt_conf_get_object_member",
    "nxt_conf_next_object_member",
    "nxt_conf_object_members_count",
    "nxt_conf_get_array_element",
    "nxt_conf_array_elements_count",
];

const TYPES: &[&str] = &[
    "nxt_app_module_t",
    "nxt_process_data_t",
    "nxt_unit_request_t",
    "nxt_unit_field_t",
    "nxt_unit_sptr_t",
    "nxt_conf_type_t",
    "nxt_port_msg_t",
    "nxt_port_msg_type_t",
];

const CONSTANTS: &[&str] = &[
    "NXT_VERNUM",
    "NXT_VERSION",
    "NXT_DEBUG",
    "NXT_OK",
    "NXT_ERROR",
    "NXT_LOG_.*",
    "NXT_UNIT_OK",
    "NXT_UNIT_ERROR",
    "NXT_UNIT_AGAIN",
    "NXT_UNIT_LOG_.*",
    "NXT_UNIT_SHARED_PORT_ID",
    "NXT_CONF_.*",
];

/// Writes `bindings.rs` into `out_dir`.
pub fn generate(wrapper: &Path, include_dirs: &[PathBuf], out_dir: &Path) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header(wrapper.display().to_string())
        .clang_args(
            include_dirs
                .iter()
                .map(|dir| format!("-I{}", dir.display())),
        )
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        // Only ever handled by pointer.
        .opaque_type("nxt_process_s|nxt_thread_s|nxt_conf_value_s|nxt_mp_s|nxt_fs_mount_t")
        .layout_tests(false)
        .derive_debug(false)
        .derive_default(false)
        .prepend_enum_name(false)
        .generate_comments(false)
        .rust_edition(bindgen::RustEdition::Edition2024);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(*function);
    }
    for ty in TYPES {
        builder = builder.allowlist_type(*ty);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(*constant);
    }
    let file = out_dir.join("bindings.rs");
    builder
        .generate()
        .map_err(|e| format!("bindgen: {e}"))?
        .write_to_file(&file)
        .map_err(|e| format!("cannot write {}: {e}", file.display()))
}
