//! The groups of turns and flips, in GrouPy's conventions.

use std::{fmt, str::FromStr};

/// A group of turns and flips of a square, under which a network is equivariant.
///
/// ```
/// use quarterturn_kernels::Group;
///
/// assert_eq!(Group::C4.order(), 4); // turns by 0°, 90°, 180°, 270°: elements 0 to 3
/// assert_eq!(Group::C4.product(1, 3), 0); // 270° and then 90° is no turn
/// assert_eq!(Group::C4.inverse(1), 3);
/// ```
///
/// Element number `4m + r` means `r` quarter turns counter-clockwise (`numpy.rot90`), then, if `m` = 1, a flip from top
/// to bottom (`numpy.flipud`). C4 has `m` = 0 only. C1 has element 0 only, which changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// No turns: an ordinary CNN. The name of this plane group is z2.
    C1,
    /// Quarter turns, p4: four elements.
    C4,
    /// Quarter turns and mirror images, p4m: eight elements.
    D4,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 3] = [Group::C1, Group::C4, Group::D4];

    /// Number of elements.
    pub const fn order(self) -> usize {
        match self {
            Group::C1 => 1,
            Group::C4 => 4,
            Group::D4 => 8,
        }
    }

    /// All elements, the identity (0) first.
    pub fn elements(self) -> std::ops::Range<usize> {
        0..self.order()
    }

    /// The element `g·h`: first `h`, then `g`.
    pub const fn product(self, g: usize, h: usize) -> usize {
        // (flip^a rot^r)(flip^b rot^s) = flip^(a+b) rot^(s + r or −r), as rot^r·flip = flip·rot^−r.
        let (a, r, b, s) = (g / 4, g % 4, h / 4, h % 4);
        let turn = if b == 0 { r + s } else { s + 4 - r } % 4;
        4 * ((a + b) % 2) + turn
    }

    /// The element `g⁻¹`.
    pub const fn inverse(self, g: usize) -> usize {
        // A reflection is its own inverse.
        if g >= 4 { g } else { (4 - g) % 4 }
    }

    /// Where element `g` moves the entry at (`row`, `col`) of an array of `height` × `width`.
    pub const fn move_entry(g: usize, row: usize, col: usize, height: usize, width: usize) -> (usize, usize) {
        // rot90 counter-clockwise: a[row][col] goes to [width − 1 − col][row].
        let (mut y, mut x, mut h, mut w) = (row, col, height, width);
        let mut turn = g % 4;
        while turn > 0 {
            (y, x) = (w - 1 - x, y);
            (h, w) = (w, h);
            turn -= 1;
        }
        if g >= 4 { (h - 1 - y, x) } else { (y, x) }
    }

    /// Where element `g` moves a pixel that is (dy, dx) away from the centre of a square array, as an offset from the
    /// centre.
    pub const fn turn_offset(g: usize, dy: isize, dx: isize) -> (isize, isize) {
        let (mut y, mut x) = (dy, dx);
        let mut turn = g % 4;
        while turn > 0 {
            (y, x) = (-x, y);
            turn -= 1;
        }
        if g >= 4 { (-y, x) } else { (y, x) }
    }

    /// The name of the plane group in the literature: z2, p4, p4m.
    pub const fn name(self) -> &'static str {
        match self {
            Group::C1 => "z2",
            Group::C4 => "p4",
            Group::D4 => "p4m",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Group {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Group::ALL.into_iter().find(|g| g.name() == name).ok_or(format!("no group '{name}': z2, p4 or p4m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_axioms_hold_for_all_elements() {
        for group in Group::ALL {
            for a in group.elements() {
                assert_eq!((group.product(0, a), group.product(a, 0)), (a, a));
                let inverse = group.inverse(a);
                assert_eq!((group.product(a, inverse), group.product(inverse, a)), (0, 0), "{group} {a}");
                for b in group.elements() {
                    assert!(group.product(a, b) < group.order());
                    for c in group.elements() {
                        let left = group.product(group.product(a, b), c);
                        assert_eq!(left, group.product(a, group.product(b, c)), "{group} {a} {b} {c}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_actions_are_homomorphisms_and_agree() {
        let (height, width) = (3, 5);
        for g in Group::D4.elements() {
            for h in Group::D4.elements() {
                let (h2, w2) = if h % 2 == 1 { (width, height) } else { (height, width) };
                for row in 0..height {
                    for col in 0..width {
                        let (y, x) = Group::move_entry(h, row, col, height, width);
                        let both = Group::move_entry(g, y, x, h2, w2);
                        let gh = Group::D4.product(g, h);
                        assert_eq!(both, Group::move_entry(gh, row, col, height, width), "{g} {h}");
                        // Twice the centred offset stays an integer.
                        let centred = |y: usize, x: usize, h: usize, w: usize| {
                            (2 * y as isize - h as isize + 1, 2 * x as isize - w as isize + 1)
                        };
                        let (dy, dx) = centred(row, col, height, width);
                        assert_eq!(Group::turn_offset(h, dy, dx), centred(y, x, h2, w2));
                    }
                }
            }
        }
    }

    #[test]
    fn one_quarter_turn_is_counter_clockwise() {
        // [[a, b], [c, d]] turns into [[b, d], [a, c]]: the top right entry goes to the top left.
        assert_eq!(Group::move_entry(1, 0, 1, 2, 2), (0, 0));
        assert_eq!(Group::move_entry(4, 0, 1, 2, 2), (1, 1));
    }

    #[test]
    fn names_parse_back() {
        for group in Group::ALL {
            assert_eq!(group.name().parse::<Group>().unwrap(), group);
        }
        assert!("p6".parse::<Group>().is_err());
    }
}
