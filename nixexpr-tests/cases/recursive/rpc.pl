# A client of the worker protocol inside a build, as Nix 2.36 is one; written from Nix's source, and
# not from the server that it tests. No Nix that can be had here speaks these operations.
#
# perl rpc.pl COMMAND...: each command is words up to a `--`
#   features                      the features that were agreed on
#   scan NAME METHOD FILE         AddToStoreScanning: the path, and its references
#   add NAME METHOD FILE REFS...  AddToStore: the path
#   nar PATH FILE REFS...         AddToStoreNar of a file that is said to be content-addressed
#   submit PATH OUTPUT            SubmitOutput
#   submit-built DRV OUT OUTPUT   SubmitOutput of an output of a derivation
#   operation NUMBER PATH         any operation that takes a path
# What fails prints `error: ` and the server's words, and the next command follows.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use IO::Socket::UNIX;

my ($socket) = ($ENV{NIX_REMOTE} // '') =~ m,^unix://(.*), or die "no socket\n";
my ($server, %agreed);

sub number { pack 'Q<', $_[0] }
sub text { my $t = shift; number(length $t) . $t . "\0" x (-length($t) % 8) }
sub list { number(scalar @_) . join '', map { text($_) } @_ }
sub get {
    my ($len) = @_;
    my $bytes = '';
    while (length $bytes < $len) {
        read($server, $bytes, $len - length $bytes, length $bytes) or die "the server has gone\n";
    }
    return $bytes;
}
sub get_number { unpack 'Q<', get(8) }
sub get_text { my $len = get_number(); my $t = get($len); get(-$len % 8); $t }
sub get_list { map { get_text() } 1 .. get_number() }
sub send_all { print $server @_ or die "cannot send\n"; $server->flush }

# Reads up to the reply; dies with what the server says.
sub wait_for_reply {
    while (1) {
        my $kind = get_number();
        if ($kind == 0x616c7473) { return }
        elsif ($kind == 0x6f6c6d67) { get_text() }
        elsif ($kind == 0x63787470) {
            get_text(), get_number(), get_text();
            my $message = get_text();
            get_number();
            for (1 .. get_number()) { get_number(), get_text() }
            die "$message\n";
        }
        else { die sprintf "frame %x\n", $kind }
    }
}

sub connect_to_server {
    $server = IO::Socket::UNIX->new($socket) or die "cannot connect\n";
    binmode $server;
    my @own = qw(realisation-with-path-not-hash delete-dead-specific-referrers disable-set-options
        add-to-store-scanning submit-output);
    send_all(number(0x6e697863), number(1 << 8 | 38));
    get_number() == 0x6478696f or die "no server\n";
    my $version = get_number();
    die "version $version\n" if $version != (1 << 8 | 38);
    send_all(list(@own));
    my %theirs = map { $_ => 1 } get_list();
    %agreed = map { $_ => 1 } grep { $theirs{$_} } @own;
    send_all(number(0), number(0));
    get_text();
    get_number() == 2 or die "it trusts a build\n";
    wait_for_reply();
}

sub contents { local $/; open my $file, '<:raw', $_[0] or die "$_[0]: $!\n"; <$file> }
sub nar { join '', map { text($_) } 'nix-archive-1', '(', 'type', 'regular', 'contents', $_[0], ')' }
sub dump_of { my ($method, $file) = @_; my $c = contents($file); $method =~ /^fixed:(r|git):/ ? nar($c) : $c }
sub framed { map({ number(length $_) . $_ } grep { length } @_), number(0) }
# Path, deriver, hash, references, time, size, ultimate, signatures, content address.
sub get_info {
    my $path = get_text();
    get_text(), get_text();
    my @references = get_list();
    get_number(), get_number(), get_number();
    get_list(), get_text();
    return ($path, @references);
}

my %commands = (
    features => sub { print join(' ', sort keys %agreed), "\n" },
    scan => sub {
        my ($name, $method, $file) = @_;
        send_all(number(1001), text($name), text($method), framed(dump_of($method, $file)));
        wait_for_reply();
        print join(' ', get_info()), "\n";
    },
    add => sub {
        my ($name, $method, $file, @references) = @_;
        send_all(number(7), text($name), text($method), list(@references), number(0),
            framed(dump_of($method, $file)));
        wait_for_reply();
        print +(get_info())[0], "\n";
    },
    nar => sub {
        my ($path, $file, @references) = @_;
        my $nar = nar(contents($file));
        my $hash = sha256_hex($nar);
        send_all(number(39), text($path), text(''), text($hash), list(@references), number(0),
            number(length $nar), number(0), list(), text("fixed:r:sha256:$hash"),
            number(0), number(0), framed($nar));
        wait_for_reply();
        print "$path\n";
    },
    submit => sub {
        my ($path, $output) = @_;
        send_all(number(1000), number(0), text($path), text($output));
        wait_for_reply();
        print get_number() == 1 ? "submitted\n" : "error: an unknown reply\n";
    },
    'submit-built' => sub {
        my ($path, $out, $output) = @_;
        send_all(number(1000), number(1), number(0), text($path), text($out), text($output));
        wait_for_reply();
        print "submitted\n";
    },
    operation => sub {
        my ($number, $path) = @_;
        send_all(number($number), text($path));
        wait_for_reply();
        print "answered\n";
    },
);
connect_to_server();
my @words;
for (@ARGV, '--') {
    if ($_ ne '--') { push @words, $_; next }
    my $command = shift @words;
    eval { $commands{$command}->(@words); 1 } or do {
        print "error: $@";
        # After some errors the server closes the connection.
        connect_to_server();
    };
    @words = ();
}
