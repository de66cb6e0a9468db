#!/bin/sh
# Install those of the named Debian packages that are missing. Only root may.
set -eu
missing=
for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
test -n "$missing" || exit 0
if test "$(id -u)" != 0 || ! command -v apt-get >/dev/null; then
    echo "Install these packages first:$missing. On Debian: sudo apt-get install$missing" >&2
    exit 1
fi
echo "Installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Packages such as nginx start their service, unless this program forbids it.
policy=/usr/sbin/policy-rc.d
if ! test -e "$policy"; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm "$policy"' EXIT
fi
# shellcheck disable=SC2086 # a list of packages
apt-get install -qq --yes --no-install-recommends $missing >/dev/null
