//! The stand-ins themselves.
//!
//! They are a part of every key that they are in, so none may ever change. The two of an
//! output are as different as can be, so that what knows more of a text than its length gives
//! something else for the other:
//!
//! - the first is of letters alone and has all of Nix's base 32 but `p`, the second is of
//!   digits and a `p` at the end and has all digits: whatever is asked of a character (but the
//!   last), at whatever place, has different answers, and so has the question whether a
//!   character is there;
//! - if it is no string but tokens, the first is a name, and the second a number in which what
//!   follows goes on, as any `-` behind a `p` does (the preprocessor's numbers have
//!   exponents);
//! - the first begins with `z`, the second with `0`: any text that is compared with both and
//!   differs from them in the first character lies between;
//! - the firsts come in the order of the outputs, the seconds in the opposite one.

/// The hash part of a store path, or what stands for it.
pub(super) type Name = [u8; 32];

/// The stand-ins of each output, in the order of the outputs' names.
#[rustfmt::skip]
pub(super) const STAND_INS: [(Name, Name); 16] = [
    (*b"zabglmniqrgfcxivwxikyjbdxhbqxsdh", *b"0938378732749759426379713525642p"),
    (*b"zbwycbfrhbazkmilhscgfjvcqlnfxfdk", *b"0842621596489637486751935910912p"),
    (*b"zcmlcagqnfixbjgrmvhqdykdwcbxdcqs", *b"0657810476195731616269365703034p"),
    (*b"zdimkfjsgwsznmrbcwgxgyghqabvmxml", *b"0656903081516921304587289090324p"),
    (*b"zfwcnvzmnqixhajlyxdkbrhgsrhgcbvj", *b"0592732943182724590178323616073p"),
    (*b"zgsrknhybskrmvcaxcsrqidfinzwjxlg", *b"0583206463267204397956193432737p"),
    (*b"zhindaljnvswnrclvjqgfbixmkylfabg", *b"0534306262761692365289809356304p"),
    (*b"zilnydyhxgbrkvgmxhrlqwvjasacafwr", *b"0502326508954950821467039051307p"),
    (*b"zjnwfbxyighgsdsizkrvzlnajgcmqjba", *b"0482749461549483497958926860613p"),
    (*b"zkmlbayfmznfszrjgywvfsicksdxzbhq", *b"0463458174606840257010952970942p"),
    (*b"zlmzndscjyqifwkayvjlyxrlhgnbrsaw", *b"0356549753895761210903987954183p"),
    (*b"zmfabdwhmyarkrhvsjnlzcqkaiygxdrh", *b"0326954963465309382641761583984p"),
    (*b"znmsliwdqkbrlcjaryvjavrgfgbhvymx", *b"0250804091619175675626926549397p"),
    (*b"zqalmvkcxbgzsikzhyjnbqwfzfynrndq", *b"0209035057437139306591760538342p"),
    (*b"zrfrhflmdcwqbyfgfksijwdnhbhxyjva", *b"0159074936284864762465903970573p"),
    (*b"zszgqmdlgawfivjmixrkvbvyrhnvncfl", *b"0109790698959712469378539260572p"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_two_of_an_output_have_nothing_in_common() {
        let set = |text: &[u8]| text.iter().copied().collect::<BTreeSet<u8>>();
        for (first, second) in &STAND_INS {
            assert_eq!(set(first), set(b"abcdfghijklmnqrsvwxyz"));
            assert_eq!(set(&second[..31]), set(b"0123456789"));
            assert_eq!(second[31], b'p');
            assert_eq!((first[0], second[0]), (b'z', b'0'));
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
