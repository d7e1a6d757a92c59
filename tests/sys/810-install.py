"""What `meson install` puts where: that it is all there, that a program is built and runs against it and nothing else, and
that systemd understands the units."""
import os
import re
import shutil

from trimstest import BUILD, PATIENCE, Skip, main, run, test

PROFILES = '''bert-base bert-large gpt2 gpt2-medium resnet-101 resnet-50 roberta-base roberta-large v100-pcie3'''.split()
FILES = [f'share/trims/profiles/{name}.json' for name in PROFILES] + '''bin/trims-bench bin/trims-ctl bin/trims-faas bin/trims-run sbin/mrm include/trims.h
LIB/libtrims.a LIB/libtrims.so LIB/libtrims.so.0 LIB/libtrims.so.0.1.0 LIB/pkgconfig/trims.pc
LIB/trims/libsimcublas.so LIB/trims/libsimcuda.so libexec/trims/trims-bench-client libexec/trims/trims-bench-export
libexec/trims/trims-make-image
share/man/man1/trims-bench.1 share/man/man1/trims-ctl.1 share/man/man1/trims-faas.1 share/man/man1/trims-run.1 share/man/man3/trims.3 share/man/man8/mrm.8
lib/systemd/system/mrm.service lib/systemd/system/mrm.socket lib/sysusers.d/trims.conf etc/trims/mrm.conf'''.split()
MAYBE = {'libexec/trims/trims-bench-client-static'}  # not with a sanitizer

PROGRAM = r'''
#include <trims.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
	trims_conn *conn = NULL;
	trims_model *model = NULL;
	struct trims_tensor t;
	uint32_t n = 0;
	if (argc != 3 || trims_connect(argv[1], NULL, &conn) || trims_open(conn, argv[2], NULL, &model) ||
	    trims_tensor_count(model, &n) || trims_tensor(model, n - 1, &t)) {
		fprintf(stderr, "%s\n", trims_last_error()->text);
		return 1;
	}
	printf("%u %d\n", (unsigned)n, t.bytes ? ((const unsigned char *)t.data)[0] : -1);
	trims_close(&model);
	trims_disconnect(&conn);
	return 0;
}
'''


class Tree:
    """An installed tree below a folder of its own."""

    def __init__(self, t):
        self.t, self.root = t, t.dir / 'root'
        if os.environ.get('TRIMS_SANITIZE', 'none') != 'none':
            raise Skip('what is installed has no sanitizer')
        self.install()
        (pc,) = self.root.rglob('trims.pc')
        self.lib, self.pkgconfig = pc.parent.parent, pc.parent
        self.prefix = next(p for p in self.root.rglob('include') if (p / 'trims.h').exists()).parent
        self.environment = {'LD_LIBRARY_PATH': str(self.lib), 'PATH': f'{self.prefix}/bin:{os.environ["PATH"]}'}

    def install(self):
        meson = shutil.which('meson')
        assert meson, 'meson is not installed: tools/setup'
        got = run(meson, 'install', '-C', BUILD, '--no-rebuild', '--quiet', '--destdir', self.root)
        assert got.rc == 0, got

    def flags(self, *arguments):
        got = run('pkg-config', *arguments, 'trims', PKG_CONFIG_PATH=str(self.pkgconfig),
                  PKG_CONFIG_SYSROOT_DIR=str(self.root))
        assert got.rc == 0, got
        return got.out.split()

    def run(self, *arguments):
        return run(*arguments, **self.environment)


@test
def everything_is_installed_and_nothing_else(t):
    tree = Tree(t)
    lib = str(tree.lib.relative_to(tree.prefix))
    found = {str(p.relative_to(tree.prefix)) for p in tree.prefix.rglob('*') if not p.is_dir()}
    t.equal(sorted(found - MAYBE), sorted(name.replace('LIB', lib) for name in FILES))
    for program in ('sbin/mrm', 'bin/trims-ctl', 'bin/trims-bench', 'bin/trims-run'):
        got = tree.run(tree.prefix / program, '--version')
        assert got.rc == 0 and '0.1.0' in got.out, got
    for page in tree.prefix.rglob('share/man/*/*'):
        assert page.read_text().startswith('.Dd'), page
    config = tree.prefix / 'etc/trims/mrm.conf'
    config.write_text('source = dir:/srv/mine\n')
    tree.install()
    t.equal(config.read_text(), 'source = dir:/srv/mine\n', "the administrator's settings")


@test
def programs_are_built_and_run_against_what_is_installed(t):
    tree = Tree(t)
    (t.dir / 'p.c').write_text(PROGRAM)
    shutil.copy(t.dir / 'p.c', t.dir / 'p.cc')
    made = t.model('a')
    daemon = t.daemon(program=tree.prefix / 'sbin/mrm')
    cflags, libs = tree.flags('--cflags'), tree.flags('--libs')
    static = [f'-L{tree.lib}', '-l:libtrims.a', '-pthread']
    for compiler, source, link in (('cc', 'p.c', libs), ('c++', 'p.cc', libs), ('cc', 'p.c', static)):
        if not shutil.which(compiler):
            continue
        got = run(compiler, '-Wall', '-Werror', '-o', t.dir / 'p', t.dir / source, *cflags, *link, PATH=os.environ['PATH'])
        assert got.rc == 0, got
        got = tree.run(t.dir / 'p', daemon.socket, 'a') if link is libs else run(t.dir / 'p', daemon.socket, 'a')
        t.equal(got.rc, 0, got)
        t.equal(int(got.out.split()[0]), len(made), 'tensors')
    t.equal(tree.run(tree.prefix / 'bin/trims-ctl', '--socket', daemon.socket, 'open', 'a').rc, 0)


@test
def the_benchmarks_find_their_helpers(t):
    tree = Tree(t)
    got = run(tree.prefix / 'bin/trims-bench', 'share', '--bytes', '4M', '--json', timeout=PATIENCE,
              **tree.environment, TMPDIR=str(t.dir))
    assert got.rc in (0, 1), got  # whether the goal is met is for tools/check --bench
    assert got.json, got


@test
def functions_are_measured_with_what_is_installed(t):
    if not shutil.which('nginx') or not shutil.which('curl'):
        raise Skip('trims-bench e2e wants nginx and curl')
    tree = Tree(t)
    got = run(tree.prefix / 'bin/trims-bench', 'e2e', '--only', 'minilm', '--rounds', '1', '--calls', '4', '--json',
              timeout=2 * PATIENCE, **tree.environment, TMPDIR=str(t.dir))
    if got.rc == 3 and 'no number' in got.err:
        raise Skip(got.err.strip())  # files do not leave the page cache here
    assert got.rc in (0, 1), got  # whether the goals are met is for tools/check --bench
    model = got.json['models']['minilm']
    for case in 'ideal', 'host_hit', 'private_warm', 'miss_disk', 'private_cold', 'miss_remote', 'private_remote':
        t.equal((model[case]['runs'], model[case]['failed']), (1, 0), case)
        assert model[case]['total_ms'] > 0, case
    ratios = 'miss_disk', 'miss_remote', 'host_hit', 'host_hit_over_cold', 'host_hit_over_warm'
    t.equal({name: ratio['pairs'] for name, ratio in model['times_as_fast'].items()}, dict.fromkeys(ratios, 1))
    t.equal(got.json['failed'], 0)
    loop = got.json['open_loop']
    t.equal(loop['arrivals'], 4)
    for arm in 'daemon', 'private':
        t.equal((loop[arm]['done'], loop[arm]['failed']), (2 * 4, 0), arm)


@test
def systemd_understands_the_units(t):
    tree = Tree(t)
    analyze = shutil.which('systemd-analyze')
    if not analyze:
        raise Skip('there is no systemd-analyze')
    service = (tree.prefix / 'lib/systemd/system/mrm.service').read_text()
    program, config = re.search(r'^ExecStart=(\S+) --config (\S+)$', service, re.M).groups()
    assert (tree.root / program.lstrip('/')).exists() and (tree.root / config.lstrip('/')).exists(), service
    got = run(tree.root / program.lstrip('/'), '--config', tree.root / config.lstrip('/'), '--check')
    t.equal(got.rc, 0, got)
    units = tree.root / 'etc/systemd/system'
    units.mkdir(parents=True)
    for unit in (tree.prefix / 'lib/systemd/system').iterdir():
        text = unit.read_text().replace(program, '/bin/true')  # the programs it names are looked for outside the tree
        (units / unit.name).write_text(text)
    got = run(analyze, 'verify', '--man=no', units / 'mrm.service', units / 'mrm.socket')
    mine = [line for line in got.err.splitlines() if 'mrm.' in line]
    assert got.rc == 0 and not mine, got
    got = run(analyze, 'security', '--offline=yes', '--threshold=25', '--no-pager', units / 'mrm.service')
    assert got.rc == 0, got


main()
