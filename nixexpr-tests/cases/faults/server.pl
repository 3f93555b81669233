# server.pl SOCKET MODE: takes compiler calls and fails each of them, until it is killed.
#   at-once       closes before it reads anything
#   half-a-call   reads some of the call
#   no-answer     reads the call and closes
#   half-an-answer  answers with less than it announces
#   rubbish       answers with bytes that mean nothing
#   endless       announces an answer longer than any
use strict;
use warnings;
use IO::Socket::UNIX;

my ($path, $mode) = @ARGV;
$SIG{PIPE} = 'IGNORE';
my $server = IO::Socket::UNIX->new(Local => $path, Listen => 100) or die "$path: $!";
while (my $call = $server->accept) {
    if ($mode ne 'at-once') {
        # A shim sends its call at once; what comes later than this is not waited for.
        my $want = $mode eq 'half-a-call' ? 16 : 1 << 20;
        my $ready = '';
        vec($ready, fileno($call), 1) = 1;
        my $read = 0;
        while ($read < $want && select(my $now = $ready, undef, undef, $read ? 0.05 : 5) > 0) {
            sysread($call, my $bytes, 4096 < $want - $read ? 4096 : $want - $read) or last;
            $read += length $bytes;
        }
    }
    syswrite($call, pack('V', 1000) . 'x' x 10) if $mode eq 'half-an-answer';
    syswrite($call, "\xff\x00rubbish\n" x 50) if $mode eq 'rubbish';
    syswrite($call, "\xff" x 8) if $mode eq 'endless';
    close $call;
}
