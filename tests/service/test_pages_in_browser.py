"""The pages in a real browser on a phone's screen: no script error, no broken picture, nothing too wide."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize("name", ["index.html", "classes/1.html", "findings/1.html", "side-by-side.html"])
def test_a_browser_renders_the_page(written_report: Path, tmp_path: Path, name: str) -> None:
    assert CHROMIUM is not None
    # A probe tells what only a browser knows: pictures that did not load, script errors, overflow.
    folder = tmp_path / "site"
    shutil.copytree(written_report, folder)
    probe = """
<script>
const failed = [];
addEventListener("error", (event) => failed.push(event.message || event.target.src), true);
addEventListener("load", () => {
  for (const image of document.images) image.loading = "eager";
  setTimeout(() => {
    const broken = [...document.images].filter((image) => !image.naturalWidth).length;
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const said = `errors=${failed.length} broken=${broken} images=${document.images.length} wide=${wide}`;
    document.body.dataset.probe = said;
  }, 2000);
});
</script>
"""
    page = folder / name
    page.write_text(
        page.read_text(encoding="utf-8").replace("<title>", probe + "<title>", 1), encoding="utf-8"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
    ]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=390,900",
        "--virtual-time-budget=8000",
    ]
    command += ["--dump-dom", page.as_uri()]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (shown,) = [part.split('"')[0] for part in done.stdout.split('data-probe="')[1:]]
    said = dict(part.split("=") for part in shown.split())
    assert (said["errors"], said["broken"], said["wide"]) == ("0", "0", "0"), shown
    assert int(said["images"]) >= 1
    assert "Schneepflug &amp; Söhne" in done.stdout
