# archives.pl DIR: writes the archives that tar would not write, each a line of
# `name: kind path content; …`, where a link's content is its target.
use strict;
use warnings;

my %archives = (
    'hostile/parent' => '5 top ; 0 top/../../evil x',
    'hostile/parent-inside' => '5 top ; 5 top/a ; 0 top/a/../evil x',
    'hostile/through-link' => '5 top ; 2 top/l .. ; 0 top/l/evil x',
    'hostile/through-absolute-link' => '5 top ; 2 top/l /tmp ; 0 top/l/evil x',
    'hostile/hard-link-out' => '5 top ; 1 top/h ../../etc/passwd ; 0 top/h x',
    'hostile/hard-link-through-link' => '5 top ; 2 top/l /etc ; 1 top/h top/l/passwd',
    'hostile/device' => '5 top ; 3 top/null ',
    'hostile/pipe' => '5 top ; 6 top/pipe ',
    'hostile/absolute' => '5 /top ; 0 /top/file x ; 0 //top/./other y',
    'hostile/replaced-link' => '5 top ; 2 top/l /etc/passwd ; 0 top/l x ; 0 top/l again',
    'v7' => "5 top ; 0 top/file text ; 1 top/hard top/file ; 2 top/soft file",
);
for my $name (keys %archives) {
    open my $file, '>', "$ARGV[0]/$name.tar" or die "$name: $!";
    for my $member (split / ; /, $archives{$name}) {
        my ($kind, $path, $content) = split / /, $member, 3;
        $content = '' unless defined $content;
        my $link = $kind =~ /[12]/ ? $content : '';
        $content = '' if $link ne '';
        my $header = pack 'a100 a8 a8 a8 a12 a12 a8 a1 a100', $path, '0000644', '0000000', '0000000',
            sprintf('%011o', length $content), '00000000000', ' ' x 8, $kind, $link;
        $header .= $name eq 'v7' ? '' : "ustar\00000";
        $header .= "\0" x (512 - length $header);
        substr($header, 148, 8) = sprintf "%06o\0 ", unpack '%32C*', $header;
        print $file $header, $content, "\0" x (-length($content) % 512);
    }
    print $file "\0" x 1024;
    close $file or die "$name: $!";
}
