"""What pages are about: for each topic its name, headings to choose from, and the texts of every part.

Names, texts and figures are our own. Of each row of headings the first is the one that an agent which does not ask
would guess.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """The words of one kind of site."""

    name: str  # of the business
    about: str  # what it is, in the request
    lead: str  # a sentence under the heading of the banner
    links: tuple[str, ...]
    headings: dict[str, tuple[str, ...]]  # {kind of part: headings}
    buttons: dict[str, tuple[str, ...]]  # {kind of part: words on its button}
    goods: tuple[tuple[str, str], ...]  # six things on offer, each with a sentence
    plans: tuple[tuple[str, int, tuple[str, ...]], ...]  # three: name, price, what is in it
    voices: tuple[tuple[str, str], ...]  # three: what was said, and in which role
    table: tuple[tuple[str, ...], ...]  # the first row is the head
    fields: tuple[str, ...]  # of the form


def _headings(*rows: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return dict(zip(('hero', 'features', 'pricing', 'voices', 'table', 'gallery', 'form'), rows, strict=True))


TOPICS = {
    'roastery': Topic(
        'Copper Kettle',
        'a coffee roastery',
        'Small batches from six farms, roasted on Tuesdays and at your door by Friday.',
        ('Beans', 'Visit', 'Journal'),
        _headings(
            ('Coffee worth waking up for', 'Slow roasted, quickly gone', 'Your morning, in good hands'),
            ('What we roast', 'From farm to cup', 'Six beans, no secrets'),
            ('Subscriptions', 'A bag a week, or two', 'Never run out again'),
            ('What our guests say', 'Heard at the counter', 'Kind words'),
            ('Opening hours', 'When the kettle is on', 'Come by'),
            ('The roastery in pictures', 'Behind the counter', 'A look inside'),
            ('Write to us', 'Book a tasting', 'Order for your office'),
        ),
        {
            'hero': ('Order beans', 'Taste it', 'Find your roast'),
            'pricing': ('Subscribe', 'Choose', 'Start'),
            'form': ('Send', 'Book', 'Ask us'),
        },
        (
            ('Harbour blend', 'Chocolate and walnut, for every machine.'),
            ('Hill farm', 'Bright and floral, best as a filter.'),
            ('Night shift', 'Dark, heavy and honest.'),
            ('Half and half', 'Half the caffeine, all of the taste.'),
            ('Cold brew', 'Coarse ground for a long night in the fridge.'),
            ('Guest bean', 'A new farm every month.'),
        ),
        (
            ('Taster', 9, ('One bag a month', 'Ground as you like', 'Pause at any time')),
            ('Regular', 17, ('Two bags a month', 'Free delivery', 'Guest bean included')),
            ('Office', 49, ('Eight bags a month', 'Machine service', 'One invoice')),
        ),
        (
            ('The only blend that my mother and I agree on.', 'Guest since the first week'),
            ('They remember how I take it.', 'Neighbour'),
            ('Our meetings became shorter and better.', 'Office manager'),
        ),
        (
            ('Day', 'Bar', 'Shop'),
            ('Monday to Friday', '7 to 18', '9 to 18'),
            ('Saturday', '8 to 16', '9 to 14'),
            ('Sunday', '9 to 14', 'closed'),
        ),
        ('Name', 'Mail', 'Message'),
    ),
    'clinic': Topic(
        'Old Mill Vets',
        'a clinic for animals',
        'Check-ups, surgery and plain advice for cats, dogs and everyone smaller.',
        ('Services', 'Team', 'Emergency'),
        _headings(
            ('Good care for good animals', 'They cannot tell us. We ask anyway', 'In calm hands'),
            ('Our services', 'What we treat', 'Care from nose to tail'),
            ('Care plans', 'One price a month', 'Plan ahead for your pet'),
            ('What owners say', 'Letters from owners', 'Told at the desk'),
            ('Consulting hours', 'When we are here', 'Times and rooms'),
            ('Our patients', 'Faces of the week', 'Guests of this month'),
            ('Make an appointment', 'Ask the nurse', 'Tell us what is wrong'),
        ),
        {
            'hero': ('Book a visit', 'Call us', 'See the team'),
            'pricing': ('Join', 'Sign up', 'Select'),
            'form': ('Send', 'Request a time', 'Submit'),
        },
        (
            ('Check-up', 'Twenty minutes, once a year.'),
            ('Vaccination', 'With a reminder when it is due.'),
            ('Dental care', 'Clean teeth, better breath.'),
            ('Surgery', 'Two theatres and a quiet ward.'),
            ('Laboratory', 'Results on the same day.'),
            ('Home visits', 'For those who hate the basket.'),
        ),
        (
            ('Kitten', 12, ('First vaccinations', 'Chip and papers', 'Two check-ups')),
            ('Adult', 19, ('Yearly check-up', 'Dental cleaning', 'A tenth off medicine')),
            ('Senior', 29, ('Check-up each half year', 'Blood tests', 'Home visit')),
        ),
        (
            ('Our cat walks in by herself now.', 'Owner of two cats'),
            ('They called in the evening to ask how he was.', 'Owner of an old dog'),
            ('Clear words and a fair bill.', 'Owner of rabbits'),
        ),
        (
            ('Room', 'Morning', 'Afternoon'),
            ('Cats', '8 to 12', '14 to 18'),
            ('Dogs', '9 to 12', '14 to 19'),
            ('Small animals', '10 to 12', 'by request'),
        ),
        ('Owner', 'Animal', 'Phone', 'What happened'),
    ),
    'archive': Topic(
        'Papermoth',
        'an app that files documents',
        'Take a picture of a letter; it is read, named and found again when you need it.',
        ('Product', 'Prices', 'Help'),
        _headings(
            ('Every paper in its place', 'Lose the folders, keep the papers', 'Filed before you sit down'),
            ('Features', 'What it does for you', 'Why it works'),
            ('Prices', 'Pay for what you file', 'Simple plans'),
            ('Loved by tidy people', 'What users write', 'From their desks'),
            ('Compare the plans', 'Side by side', 'All the details'),
            ('Screens', 'See it at work', 'A short tour'),
            ('Talk to us', 'Ask for a demo', 'Tell us about your papers'),
        ),
        {
            'hero': ('Try it free', 'Start filing', 'Get the app'),
            'pricing': ('Buy', 'Get started', 'Pick this'),
            'form': ('Send', 'Ask for a call', 'Get in touch'),
        },
        (
            ('Reads for you', 'Names, dates and sums, from any letter.'),
            ('Finds in a second', 'Search for what you remember.'),
            ('Stays private', 'Locked on your own devices.'),
            ('Reminds you', 'Before a contract renews itself.'),
            ('Shares safely', 'One page, one person, one week.'),
            ('Leaves with you', 'Everything exports as plain files.'),
        ),
        (
            ('Drawer', 0, ('Fifty papers', 'One device', 'Search')),
            ('Cabinet', 5, ('Ten thousand papers', 'Five devices', 'Reminders')),
            ('Vault', 14, ('No limits', 'Shared folders', 'Help by phone')),
        ),
        (
            ('I found the warranty before the kettle was cold.', 'Teacher'),
            ('Taxes took me one evening.', 'Carpenter'),
            ('Our folder room is a break room now.', 'Head of a small office'),
        ),
        (
            ('', 'Drawer', 'Cabinet', 'Vault'),
            ('Papers', '50', '10,000', 'any'),
            ('Devices', '1', '5', 'any'),
            ('Reminders', 'no', 'yes', 'yes'),
            ('Phone help', 'no', 'no', 'yes'),
        ),
        ('Name', 'Company', 'Question'),
    ),
    'trails': Topic(
        'North Ridge Walks',
        'guided walks in the mountains',
        'Eight people, one guide, and the right path for the weather of the day.',
        ('Walks', 'Guides', 'Gear'),
        _headings(
            ('Walk further, worry less', 'The long way is the good way', 'Up early, home late'),
            ('Our walks', 'Six ways up', 'Pick a path'),
            ('Passes', 'Walk once or all year', 'What it costs'),
            ('Voices from the trail', 'What walkers say', 'Written in the hut book'),
            ('Dates', 'The next walks', 'Calendar'),
            ('Views', 'Pictures from the ridge', 'What waits up there'),
            ('Reserve a place', 'Come along', 'Join a walk'),
        ),
        {
            'hero': ('See all walks', 'Join us', 'Plan a day'),
            'pricing': ('Get it', 'Reserve', 'Walk with us'),
            'form': ('Reserve', 'Send', 'Count me in'),
        },
        (
            ('Lake round', 'Four hours, hardly any climb.'),
            ('Three huts', 'Two days with soup at each stop.'),
            ('Sunrise peak', 'Start at three, breakfast on top.'),
            ('Gorge path', 'Ropes, ladders and wet feet.'),
            ('Forest school', 'For children and the curious.'),
            ('Snow line', 'With snowshoes, from December on.'),
        ),
        (
            ('Day', 35, ('One walk', 'Guide and map', 'Tea at the end')),
            ('Season', 120, ('Five walks', 'Gear to borrow', 'A friend at half price')),
            ('Year', 310, ('All walks', 'First choice of dates', 'Hut nights included')),
        ),
        (
            ('I thought that I was unfit. I was only alone.', 'Walker, 61'),
            ('Best soup at 2,000 metres.', 'Family of four'),
            ('Our guide turned back, and was right.', 'Climber'),
        ),
        (
            ('Date', 'Walk', 'Places'),
            ('3 May', 'Lake round', '5'),
            ('10 May', 'Gorge path', '2'),
            ('17 May', 'Three huts', '8'),
            ('24 May', 'Sunrise peak', '1'),
        ),
        ('Name', 'Mail', 'Which walk'),
    ),
    'school': Topic(
        'Second Octave',
        'a music school for adults',
        'Lessons for those who always wanted to, in the evening and without exams.',
        ('Lessons', 'Teachers', 'Concerts'),
        _headings(
            ('It is not too late for the cello', 'Play the thing you hum', 'Start again from middle C'),
            ('Instruments', 'What you can learn', 'Six rooms, six sounds'),
            ('Fees', 'Lessons by the month', 'What lessons cost'),
            ('From our pupils', 'After the first concert', 'They play now'),
            ('Timetable', 'The week at a glance', 'Free places'),
            ('Rooms and concerts', 'Pictures of last term', 'On stage'),
            ('Book a trial lesson', 'Ask a teacher', 'Write to the school'),
        ),
        {
            'hero': ('Book a trial', 'Hear us', 'Find a teacher'),
            'pricing': ('Enrol', 'Take it', 'Begin'),
            'form': ('Book', 'Send', 'Write'),
        },
        (
            ('Piano', 'Two grands and four that are patient.'),
            ('Cello', 'Rental for the first half year.'),
            ('Guitar', 'Chords by the second week.'),
            ('Voice', 'Breathe first, then sing.'),
            ('Drums', 'In the cellar, as loud as you like.'),
            ('Choir', 'Every Thursday, no audition.'),
        ),
        (
            ('Prelude', 45, ('Two lessons a month', 'Room to practise', 'Sheet music')),
            ('Sonata', 85, ('A lesson a week', 'Ensemble', 'Concert twice a year')),
            ('Duo', 60, ('A lesson a week for two', 'Room to practise', 'Recordings')),
        ),
        (
            ('I am 54 and I have a recital on Friday.', 'Cello, first year'),
            ('The best hour of my week.', 'Choir'),
            ('My neighbours have begun to nod.', 'Drums'),
        ),
        (
            ('Day', 'Early', 'Late'),
            ('Monday', 'Piano', 'Voice'),
            ('Tuesday', 'Cello', 'Guitar'),
            ('Wednesday', 'Drums', 'Piano'),
            ('Thursday', 'Guitar', 'Choir'),
        ),
        ('Name', 'Mail', 'Instrument', 'Since when'),
    ),
    'repair': Topic(
        'Spoke and Chain',
        'a workshop for bicycles',
        'Bring it in the morning, ride it home in the evening.',
        ('Repairs', 'Used bikes', 'Courses'),
        _headings(
            ('We fix what you ride', 'Back on two wheels today', 'No squeak too small'),
            ('What we do', 'Work on the stand', 'Repairs we like'),
            ('Service packages', 'Once a year is enough', 'Fixed prices'),
            ('What riders say', 'Overheard in the yard', 'Thank-you notes'),
            ('Price list', 'What parts cost', 'Small jobs'),
            ('Bikes we built', 'Fresh from the stand', 'Some favourites'),
            ('Tell us about your bike', 'Book the stand', 'Drop us a line'),
        ),
        {
            'hero': ('Book a repair', 'Bring it in', 'See prices'),
            'pricing': ('Book', 'I want this', 'Order'),
            'form': ('Send', 'Book the stand', 'Ask'),
        },
        (
            ('Brakes', 'Pads, cables and a test ride.'),
            ('Gears', 'Adjusted until they are silent.'),
            ('Wheels', 'Trued by hand and eye.'),
            ('Lights', 'Dynamos that survive the winter.'),
            ('Cargo', 'Racks that carry a washing machine.'),
            ('Children', 'A bigger bike for the outgrown one.'),
        ),
        (
            ('Small', 39, ('Brakes and gears', 'Air and oil', 'Ready today')),
            ('Full', 79, ('All of small', 'Wheels trued', 'New cables')),
            ('Winter', 99, ('All of full', 'Stored until March', 'Spring wash')),
        ),
        (
            ('It shifts better than when it was new.', 'Commuter'),
            ('They showed me how to do it myself.', 'Student'),
            ('Honest: they told me not to buy.', 'Cargo rider'),
        ),
        (
            ('Job', 'Part', 'Work'),
            ('Tube', '7', '9'),
            ('Chain', '24', '12'),
            ('Brake pads', '14', '15'),
            ('Spoke', '2', '18'),
        ),
        ('Name', 'Phone', 'Bike', 'What is wrong'),
    ),
}
