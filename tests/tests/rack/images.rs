//! Images without a registry.

use anyhow::{Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually};

pub(crate) const ALL: &[crate::Promise] = &[
    ("image_import_reaches_every_node", image_import_reaches_every_node),
    (
        "a_node_that_was_away_catches_up_with_imports",
        a_node_that_was_away_catches_up_with_imports,
    ),
    ("a_file_that_is_no_image_is_refused", a_file_that_is_no_image_is_refused),
];

/// Makes an archive of the demo image under another name, so that no node has it yet.
fn archive(rack: &Rack, directory: &tempfile::TempDir, reference: &str) -> Result<String> {
    let path = directory.path().join("image.tar").display().to_string();
    rack.minidc(&["rack", "demo-image", &path, "--reference", reference])?;
    Ok(path)
}

fn image_import_reaches_every_node(rack: &Rack) -> Result<()> {
    rack.await_nodes()?;
    let directory = tempfile::tempdir()?;
    let printed = rack.minidc(&[
        "image",
        "import",
        &archive(rack, &directory, "example.local/everywhere:2")?,
    ])?;
    ensure!(
        printed.contains("example.local/everywhere:2: on pi-1, pi-2, pi-3"),
        "{printed}"
    );
    for node in ["pi-1", "pi-2", "pi-3"] {
        let images = rack.in_node(node, &["ctr", "-n", "k8s.io", "images", "ls", "-q"])?;
        ensure!(images.contains("example.local/everywhere:2"), "{node}: {images}");
    }
    ensure!(rack.minidc(&["image", "list"])?.contains("example.local/everywhere:2"));
    Ok(())
}

fn a_node_that_was_away_catches_up_with_imports(rack: &Rack) -> Result<()> {
    let directory = tempfile::tempdir()?;
    rack.rack("unplug", &["pi-3"])?;
    eventually(PATIENCE, "pi-3 NotReady", || Ok(!rack.node_is("pi-3", "True")?))?;
    let imported =
        archive(rack, &directory, "example.local/later:1").and_then(|path| rack.minidc(&["image", "import", &path]));
    rack.rack("plug", &["pi-3"])?;
    let printed = imported?;
    ensure!(
        printed.contains("on pi-1, pi-2") && printed.contains("missed pi-3: away"),
        "{printed}"
    );
    eventually(PATIENCE, "the image on pi-3", || {
        Ok(rack
            .in_node("pi-3", &["ctr", "-n", "k8s.io", "images", "ls", "-q"])?
            .contains("example.local/later:1"))
    })?;
    eventually(PATIENCE, "pi-3 Ready", || rack.node_is("pi-3", "True"))?;
    eventually(PATIENCE, "pi-3 in image list", || {
        let table = rack.minidc(&["image", "list"])?;
        Ok(table
            .lines()
            .any(|line| line.contains("later:1") && line.contains("pi-3")))
    })?;
    Ok(())
}

fn a_file_that_is_no_image_is_refused(rack: &Rack) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("wrong.tar");
    for (content, what) in [
        (&b"hello"[..], "text"),
        (&[0; 1024][..], "an empty archive"),
        (&[][..], "nothing"),
    ] {
        std::fs::write(&path, content)?;
        let Err(error) = rack.minidc(&["image", "import", &path.display().to_string()]) else {
            anyhow::bail!("{what} was taken for an image");
        };
        ensure!(format!("{error:#}").contains("wrong.tar"), "{error:#}");
    }
    let Err(error) = rack.minidc(&["image", "import", "/no/such/file.tar"]) else {
        anyhow::bail!("a missing file was taken for an image");
    };
    ensure!(format!("{error:#}").contains("/no/such/file.tar"), "{error:#}");
    Ok(())
}
