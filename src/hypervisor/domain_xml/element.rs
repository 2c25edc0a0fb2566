//! A small XML tree: built and written through quick-xml's writer, or read from what libvirt answers.
//!
//! Escaping is the writer's. What no escape can express (control characters) is refused here, so that no text of an
//! operator can ever break a document or change what it says.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

/// Most elements within one another that are read: libvirt's documents have a dozen, and a long chain of backing files two
/// for each.
const DEEPEST: usize = 1000;

/// An element with its attributes, children and text. Names are kept without their prefix when read: libvirt gives
/// metadata back with the prefix stripped or not, depending on the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Attributes in order.
    pub attributes: Vec<(String, String)>,
    /// Elements within it, in order.
    pub children: Vec<Element>,
    /// Text directly within it, white space at both ends removed.
    pub text: String,
}

/// Why a document can't be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// XML 1.0 has no way to write this character.
    #[error("{character:?} in {place} can't stand in XML")]
    Character {
        /// The character.
        character: char,
        /// The element or attribute it was meant for.
        place: String,
    },
    /// The text is not one well-formed element.
    #[error("not well-formed XML: {0}")]
    Malformed(String),
}

impl Element {
    /// An empty element.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a child.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// Adds children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// Sets its text. An element has text or children, never both.
    #[must_use]
    pub fn text(mut self, text: impl ToString) -> Self {
        self.text = text.to_string();
        self
    }

    /// The attribute's value.
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(name, _)| name == attribute)
            .map(|(_, value)| value.as_str())
    }

    /// The first child of that name.
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The element reached by following the first child of each name.
    pub fn path<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Option<&Self> {
        names.into_iter().try_fold(self, |at, name| at.find(name))
    }

    /// Every element below this one, itself first.
    pub fn walk(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        Box::new(std::iter::once(self).chain(self.children.iter().flat_map(Self::walk)))
    }

    /// The document.
    ///
    /// # Errors
    /// [`XmlError::Character`] for a control character, in an attribute also for a line break or tab, which a reader
    /// would turn into a space.
    pub fn to_xml(&self) -> Result<String, XmlError> {
        self.check()?;
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut writer)
            .map_err(|e| XmlError::Malformed(e.to_string()))?;
        String::from_utf8(writer.into_inner()).map_err(|e| XmlError::Malformed(e.to_string()))
    }

    fn check(&self) -> Result<(), XmlError> {
        let refuse = |text: &str, place: &str, breaks: bool| {
            text.chars()
                .find(|&c| illegal(c) && !(breaks && matches!(c, '\n' | '\t')))
                .map_or(Ok(()), |character| {
                    Err(XmlError::Character {
                        character,
                        place: place.to_owned(),
                    })
                })
        };
        refuse(&self.text, &self.name, true)?;
        for (name, value) in &self.attributes {
            refuse(value, &format!("{}/@{name}", self.name), false)?;
        }
        self.children.iter().try_for_each(Self::check)
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name.as_str());
        for (name, value) in &self.attributes {
            start.push_attribute((name.as_str(), value.as_str()));
        }
        if self.children.is_empty() && self.text.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if !self.text.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str())))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError::Malformed`] if it is not one well-formed element, or one of more than [`DEEPEST`] elements within one
    /// another: whatever goes through the tree, as giving it up does, goes as deep.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let malformed = |e: &dyn std::fmt::Display| XmlError::Malformed(e.to_string());
        let mut reader = Reader::from_str(xml);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let event = reader.read_event().map_err(|e| malformed(&e))?;
            let done = match event {
                Event::Start(_) if open.len() >= DEEPEST => {
                    return Err(XmlError::Malformed(format!(
                        "it has more than {DEEPEST} elements within one another"
                    )));
                }
                Event::Start(start) => {
                    open.push(read_start(&start)?);
                    None
                }
                Event::Empty(start) => Some(read_start(&start)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    append(&mut open, &text.xml10_content());
                    None
                }
                Event::CData(data) => {
                    append(&mut open, &data.xml10_content());
                    None
                }
                Event::GeneralRef(reference) => {
                    let escaped = format!("&{};", reference.into_inner());
                    append(
                        &mut open,
                        &quick_xml::escape::unescape(&escaped).map_err(|e| malformed(&e))?,
                    );
                    None
                }
                Event::Eof => return Err(XmlError::Malformed("it ends too early".to_owned())),
                _ => None,
            };
            if let Some(mut element) = done {
                element.text = element.text.trim().to_owned();
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn read_start(start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let malformed = |e: &dyn std::fmt::Display| XmlError::Malformed(e.to_string());
    let mut element = Element::new(start.local_name().as_ref());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| malformed(&e))?;
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|e| malformed(&e))?;
        element
            .attributes
            .push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    Ok(element)
}

/// Not a `Char` of XML 1.0, or one that doesn't survive reading.
fn illegal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_libvirt_writes() {
        let xml = "<?xml version='1.0'?>\n<!-- x -->\n<a k='1 &amp; 2'>\n <v:b xmlns:v='u'>x &lt; y&#33;</v:b><c/></a>\n";
        let a = Element::parse(xml).unwrap();
        assert_eq!(a.get("k"), Some("1 & 2"));
        assert_eq!(a.find("b").unwrap().text, "x < y!");
        assert!(a.find("c").is_some());
        for bad in ["", "<a>", "<a></b>", "text", "<a b=></a>"] {
            assert!(Element::parse(bad).is_err(), "{bad:?} is no document");
        }
    }

    #[test]
    fn a_document_of_any_depth_is_read_or_refused() {
        let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        let deep = Element::parse(&nested(DEEPEST)).unwrap();
        assert_eq!(deep.walk().count(), DEEPEST);
        assert_eq!(deep.clone(), deep);
        for depth in [DEEPEST + 1, 1_000_000] {
            for document in [nested(depth), "<a>".repeat(depth)] {
                let error = Element::parse(&document).unwrap_err().to_string();
                assert!(error.contains("within one another"), "{depth}: {error}");
            }
        }
    }

    #[test]
    fn control_characters_are_refused() {
        for bad in ["\0", "a\u{1b}b", "\u{ffff}", "a\nb"] {
            let e = Element::new("a").attr("k", bad);
            assert!(e.to_xml().is_err(), "{bad:?} must be refused in an attribute");
        }
        assert!(Element::new("a").text("a\nb").to_xml().is_ok());
        assert!(Element::new("a").text("a\rb").to_xml().is_err());
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was_or_is_refused(value in any::<String>(), text in "\\PC*") {
            let e = Element::new("a").attr("k", &value).child(Element::new("b").text(text.trim()));
            match e.to_xml() {
                Ok(xml) => {
                    let back = Element::parse(&xml).unwrap();
                    prop_assert_eq!(back.get("k"), Some(value.as_str()));
                    prop_assert_eq!(&back.children[0].text, text.trim());
                }
                Err(_) => prop_assert!(value.chars().chain(text.chars()).any(illegal)),
            }
        }
    }
}
