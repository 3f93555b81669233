//! The stand-ins themselves.
//!
//! They are a part of every key that they are in, so none may ever change. Each holds every
//! character of Nix's base 32 once, so it is a possible hash, but none that is ever met
//! with. The two of an output are as different as can be, so that what knows more of
//! a text than its length gives something else for the other:
//!
//! - no character is in the same place in both;
//! - the first begins with a digit and ends with `p`, the second begins with a letter and
//!   does not: as preprocessing tokens they are of different kinds, and in `p-` a number would
//!   go on;
//! - in the order of the alphabet, the firsts come in the outputs' order and the seconds in
//!   the opposite one, and anything that could be compared with them lies between.

/// The hash part of a store path, or what stands for it.
pub(super) type Name = [u8; 32];

/// The stand-ins of each output, in the order of the outputs' names.
#[rustfmt::skip]
pub(super) const STAND_INS: [(Name, Name); 16] = [
    (*b"07xq3d5yz8wns6vgf9ma1bhk2ric4ljp", *b"zrd9pns8fl0kig7mxa4y5wcb61hv2j3q"),
    (*b"0w3ks1qmi4cvx2rn8a7fdh5ygl9j6zbp", *b"yjw9ib8acf0m6rgp7l1q3zkv4snd25xh"),
    (*b"1gw7m9fx8klr4vc5bqh3js2yan6zd0ip", *b"xcm3dqb2rjy0gs6v1kpi9ah8nf5wl4z7"),
    (*b"1zy9g7bvr4m0dks6nx3aq5wjh8ifl2cp", *b"wds2rm5jfg0la8xn43ib7phc1yv96qkz"),
    (*b"2rlx6zv4fmg9s1hwa7qjd0y3i8bc5nkp", *b"v5r4iyh8ndk01qlp3j7zbm9fx2gwa6sc"),
    (*b"3f7vac6jlr8hkx41qn9gs5yiz2mb0dwp", *b"s5q4yi2cx8ra3lmv0fw6bj7zk9nd1hpg"),
    (*b"3qd7riv1jhc8zny0xk6wl54fga2bs9mp", *b"rsb1dw2z8ag0jx6qy7kn3il4vcp9f5hm"),
    (*b"4jwy7nak0v3rgi6m1bd5qsf2cz9x8lhp", *b"qy9ri2npm4zwx1lja6kgh57sfb3vc08d"),
    (*b"58dcz0xw6hly9bqa2rsi1fv47jnm3kgp", *b"na12q6cz4igl5vpm8bds0xf9rhy7k3wj"),
    (*b"5gdh8j7r0im4swa1lfq9xzy2bvc63nkp", *b"m1rf94cs2kd6laj5iy0wng8qvx7bz3ph"),
    (*b"6gjk8xn7cz9fqd3al4hi0vw5mb2yrs1p", *b"lrf6kqi1mcg48adn2jwy7shx3p50bzv9"),
    (*b"6ns0mkw5vqg8abc4yfi3z19x7djh2rlp", *b"kc6ynl89siq0wxj1d7v5hf2prz4bga3m"),
    (*b"7mhc2wa5rx1jnd3qs48bz9if6gvy0klp", *b"jns7gdi6x0hfk3lwr5a42vmp8by19zcq"),
    (*b"8bf7nqh6mv3yrk1jl4xa0cz2sgw5di9p", *b"i7l2gsj4rpm5yfw6kh8qvd9ba0z3c1nx"),
    (*b"8c4ahx0gyb7rj5f6lwv2ndi1sm3q9kzp", *b"hrv7ngy0ad5zqb61f3sw8jx4mip2c9lk"),
    (*b"9mcj3a1x2ky4q0gi7wfb8slv5ndz6rhp", *b"gri8jqh6ksa7ny4mw5z0lp9cx2v3d1fb"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALPHABET: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";

    #[test]
    fn the_two_of_an_output_have_nothing_in_common() {
        for (first, second) in &STAND_INS {
            for name in [first, second] {
                let mut sorted = *name;
                sorted.sort_unstable();
                assert_eq!(sorted, ALPHABET);
            }
            assert!(first.iter().zip(second).all(|(a, b)| a != b));
            assert!(first[0].is_ascii_digit() && !second[0].is_ascii_digit());
            assert!(first[31] == b'p' && second[31] != b'p');
        }
    }

    #[test]
    fn firsts_and_seconds_are_in_opposite_orders() {
        assert!(STAND_INS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(STAND_INS.windows(2).all(|pair| pair[0].1 > pair[1].1));
    }

    #[test]
    fn they_can_be_told_apart_by_their_beginnings() {
        let both = STAND_INS.iter().flat_map(|(a, b)| [&a[..8], &b[..8]]);
        assert_eq!(both.collect::<BTreeSet<_>>().len(), 2 * STAND_INS.len());
    }
}
