//! What travels in the binary: packs/, which every server knows; rules/, workflows/ and apps/, which `demo` and `init` copy.

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "packs/"]
#[prefix = "packs/"]
struct Packs;

#[derive(RustEmbed)]
#[folder = "rules/"]
#[prefix = "rules/"]
struct Rules;

#[derive(RustEmbed)]
#[folder = "workflows/"]
#[prefix = "workflows/"]
struct Workflows;

#[derive(RustEmbed)]
#[folder = "apps/"]
#[prefix = "apps/"]
struct Apps;

/// What a new site holds beside the reference pipeline.
#[derive(RustEmbed)]
#[folder = "starter/"]
struct Starter;

pub(super) fn packs() -> Vec<(String, Vec<u8>)> {
    all::<Packs>()
}

pub(super) fn reference() -> Vec<(String, Vec<u8>)> {
    let mut files = all::<Rules>();
    files.extend(all::<Workflows>());
    files
}

pub(super) fn starter() -> Vec<(String, Vec<u8>)> {
    let mut files = reference();
    files.extend(all::<Apps>());
    files.extend(all::<Starter>());
    files
}

fn all<E: RustEmbed>() -> Vec<(String, Vec<u8>)> {
    E::iter()
        .filter_map(|name| E::get(&name).map(|file| (name.into_owned(), file.data.into_owned())))
        .collect()
}
