//! The stand-ins themselves.
//!
//! They are a part of every key that they are in, so none may ever change. The two of an
//! output are as different as can be, so that what knows more of a text than its length gives
//! something else for the other:
//!
//! - the first is of letters alone and has all of Nix's base 32, the second is of digits
//!   alone and has all of them: whatever is asked of a character, at whatever place, has
//!   different answers, and so has the question whether a character is there;
//! - the first begins with `z`, the second with `0`: any text that is compared with both and
//!   differs from them in the first character lies between;
//! - the firsts come in the order of the outputs, the seconds in the opposite one.

/// The hash part of a store path, or what stands for it.
pub(super) type Name = [u8; 32];

/// The stand-ins of each output, in the order of the outputs' names.
#[rustfmt::skip]
pub(super) const STAND_INS: [(Name, Name); 16] = [
    (*b"zamphgrqkyclxkjhfcnvcrslbhzsdrwi", *b"09438439351410937030632920796830"),
    (*b"zbzwqnmgsifykdizgcxkvaxdlrhkmpvj", *b"09245848958065059632135403414207"),
    (*b"zciaxjmqwdhdrbhkchcybsfivnjfplgw", *b"08460792501253291496306505893809"),
    (*b"zdzafabdvhmxaqkqhszrjnlycpkaixgw", *b"07354208214278989159280376786532"),
    (*b"zfbhxhgdvpapsgnsnlywhjmlrizqzlkc", *b"07342417603505108950435483891240"),
    (*b"zgairkdvybzhfdmjwzipqbaiylmzscnx", *b"07241473105189568926150726145607"),
    (*b"zhgwbmprfnxyjkvcdldbvracijvqjdzs", *b"06714689287324318317856105704675"),
    (*b"zixadmpfpdgqkvihjwmnisairclsyqjb", *b"06373586521975974653142508985472"),
    (*b"zjgmaqpdbhililcksbfgwvrydhjhnzmx", *b"05201436518049418594070818932653"),
    (*b"zkvjqyrvwmnipcmdasgvisfbprknxrhl", *b"04620172308795674901538275469760"),
    (*b"zlfjmpafamvcdqrgqmkhyizswxjnfgvb", *b"04529526713619817803959174014549"),
    (*b"zmxdwcxqfqhviyslgfnpjklnaryhvcvb", *b"03985134247626892545270813496101"),
    (*b"zndqgjbylkaypclrlfchwhxvspmgmiay", *b"03590581398546345632645982895697"),
    (*b"zpbwqanplmzpgijdxqvcxyxhmdrklfsi", *b"02924617565971635052306581810750"),
    (*b"zqjdwbsqaxlrvnbmfmrxblksigvicyph", *b"02808940535824941845643478903459"),
    (*b"zrgsqvphjagvkgcxjilfndbyjvlmwkif", *b"02405978591467518504973695763850"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_two_of_an_output_have_nothing_in_common() {
        let set = |text: &[u8]| text.iter().copied().collect::<BTreeSet<u8>>();
        for (first, second) in &STAND_INS {
            assert_eq!(set(first), set(b"abcdfghijklmnpqrsvwxyz"));
            assert_eq!(set(second), set(b"0123456789"));
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
