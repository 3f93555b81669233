declare b=1
declare big=1
declare builder='/bin/sh'
declare -a e=()
declare -A eo=()
declare f2=2
declare half=16777217
declare huge=-2147483648
declare -a l=(1 'a' '/nix/store/z4asv3j07d89ywjf8fxkn7sg6mf5s9q5-dep' '' 1 )
declare n=1
declare name='attrs'
declare nb=
declare neg=-3
declare nul=''
declare -A o=(['a']='x' ['b c']=1 )
declare -A outputs=(['dev']='/nix/store/q8jb7nc8hhvi51sqd2cz6lx8f7nnp16c-attrs-dev' ['out']='/nix/store/jwbmssqc0cj1c0zwhd6czc1ysx4il9vf-attrs' )
declare ph='/nix/store/q8jb7nc8hhvi51sqd2cz6lx8f7nnp16c-attrs-dev/x'
declare s='it'\''s'
declare system='x86_64-linux'
