#!/bin/sh
# deb.sh VERSION - build/mocl_VERSION_ARCH.deb of what make install installs below /usr: stripped, with the packages that its
# libraries come from as dependencies. Needs dpkg-dev; lintian, where it is, has the last word.
set -eu
cd "$(dirname "$0")/../.."
version=$1
for tool in dpkg-deb dpkg-shlibdeps dpkg-architecture; do
    command -v $tool > /dev/null || { echo "make deb needs $tool: install dpkg-dev"; exit 1; }
done
arch=$(dpkg --print-architecture)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
root=build/deb/root
deb=build/mocl_${version}_$arch.deb
umask 022

rm -rf build/deb
mkdir -p build/deb/debian "$root/DEBIAN"
${MAKE:-make} -s install DESTDIR="$PWD/$root" PREFIX=/usr
rm -rf "$root/usr/lib/mocl" # the CUDA part is built for one machine
doc=$root/usr/share/doc/mocl
mv "$root/usr/lib/lua" "$root/usr/lib/pkgconfig" "$root"/usr/lib/libmocl* build/deb
mkdir -p "$root/usr/lib/$multiarch"
mv build/deb/lua build/deb/pkgconfig build/deb/libmocl* "$root/usr/lib/$multiarch"
sed -i "s,^libdir=.*,libdir=\${prefix}/lib/$multiarch," "$root/usr/lib/$multiarch/pkgconfig/mocl.pc"
for f in "$root/usr/bin/mocl" "$root/usr/lib/$multiarch/libmocl.so.0" "$root/usr/lib/$multiarch/lua/5.4/mocl.so"; do
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$f"
done
strip --strip-debug --enable-deterministic-archives "$root/usr/lib/$multiarch/libmocl.a"
gzip -9n "$root"/usr/share/man/man1/*.1

# the changelog of the packaging is one line; the program's own stands beside it
maintainer=${DEB_MAINTAINER:-"the mocl developers <mocl@users.noreply.github.com>"}
when=$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}")
gzip -9nc "$doc/CHANGELOG.md" > "$doc/changelog.gz"
rm "$doc/CHANGELOG.md"
printf 'mocl (%s) unstable; urgency=medium\n\n  * Built by make deb.\n\n -- %s  %s\n' "$version" "$maintainer" "$when" \
    | gzip -9n > "$doc/changelog.Debian.gz"
{
    echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
    echo 'Upstream-Name: mocl'
    echo
    echo 'Files: *'
    sed -n 's/^Copyright (c) /Copyright: /p' LICENSE
    echo 'License: MIT'
    sed '1,/^Copyright/d' LICENSE | sed '1{/^$/d}' | sed 's/^$/./; s/^/ /'
} > "$doc/copyright"
rm "$doc/LICENSE"

# what the libraries are called, and what they come from
printf 'Source: mocl\nPackage: mocl\nArchitecture: %s\n' "$arch" > build/deb/debian/control
depends=$(cd build/deb && dpkg-shlibdeps -O -lroot/usr/lib/"$multiarch" root/usr/bin/mocl "root/usr/lib/$multiarch/libmocl.so.0" \
    "root/usr/lib/$multiarch/lua/5.4/mocl.so" 2> build.log || cat build.log >&2)
size=$(du -k -s --apparent-size "$root/usr" | cut -f1)
cat > "$root/DEBIAN/control" << END
Package: mocl
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $size
Depends: ${depends#shlibs:Depends=}
Recommends: libopenblas0-pthread, libmicrohttpd12
Suggests: lua5.4, liblua5.4-dev
Section: science
Priority: optional
Description: multi-objective control of language models
 An interpreter of Lua 5.4 with tensors, language models, and the training of
 one policy that follows a preference over several rewards when it answers.
 The package has the program mocl with its recipes and tools, a C library to
 embed it, and the module for lua5.4.
END
echo "libmocl 0 mocl (>= $version)" > "$root/DEBIAN/shlibs"
echo 'activate-noawait ldconfig' > "$root/DEBIAN/triggers"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
find "$root" -type d -exec chmod 755 {} +
dpkg-deb --root-owner-group --build "$root" "$deb" > /dev/null
ls -l "$deb"
if command -v lintian > /dev/null; then lintian --fail-on error "$deb"; else echo 'lintian is not here: the package is not checked'; fi
